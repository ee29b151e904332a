//! Open requests: counted, so that a server that stops can wait for them, and refused from then
//! on.

use tokio::sync::watch;

use crate::failure::Failure;

/// What requests pass.
#[derive(Debug)]
pub(crate) struct Gate {
    open: watch::Sender<usize>,
    closed: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(0), closed: watch::Sender::new(false) }
    }
}

/// A request that is open, until it is dropped.
pub(crate) struct Entered {
    open: watch::Sender<usize>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

impl Gate {
    /// Lets a request in.
    ///
    /// # Errors
    /// `server.stopping`.
    pub(crate) fn enter(&self) -> Result<Entered, Failure> {
        // Counted first, so that none slips in while the gate closes.
        self.open.send_modify(|open| *open += 1);
        let entered = Entered { open: self.open.clone() };
        if *self.closed.borrow() { Err(stopping()) } else { Ok(entered) }
    }

    /// Lets no request in any more.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Returns once it is closed.
    pub(crate) async fn closing(&self) {
        // The sender lives in `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Returns once no request is open.
    pub(crate) async fn empty(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// The answer of a server that stops.
pub(crate) fn stopping() -> Failure {
    Failure::fault("server.stopping", "the server is stopping").help("try again once it runs again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_in_may_finish_and_nobody_follows() {
        let gate = Gate::default();
        let inside = gate.enter().unwrap();
        gate.close();
        gate.closing().await;
        assert_eq!(gate.enter().map(|_| ()).unwrap_err().code, "server.stopping");
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), gate.empty()).await;
        assert!(waits.is_err());
        drop(inside);
        gate.empty().await;
    }
}
