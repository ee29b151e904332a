//! Ctrl-C, SIGTERM and a terminal that is closed: the first ends the build in good order, the second at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;
use crate::output::Target;

/// Knows whether the user wants to stop.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    first: watch::Receiver<Option<Exit>>,
}

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// No signal handler could be set.
    pub(super) fn listen() -> io::Result<Self> {
        let (mut interrupt, mut terminate, mut hang_up) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        let (tell, first) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let exit = tokio::select! {
                    _ = interrupt.recv() => Exit::Interrupted,
                    _ = terminate.recv() => Exit::Terminated,
                    _ = hang_up.recv() => Exit::HungUp,
                };
                if tell.borrow().is_some() {
                    // The agents hold a pipe of ours, and end when it closes.
                    std::process::exit(i32::from(exit.code()));
                }
                Target::Stderr.write("stopping; once more to end at once\n");
                tell.send_replace(Some(exit));
            }
        });
        Ok(Self { first })
    }

    /// How to exit, once a signal has come.
    pub(super) fn seen(&self) -> Option<Exit> {
        *self.first.borrow()
    }

    /// Waits for the first signal.
    pub(super) async fn wait(&self) -> Exit {
        let mut first = self.first.clone();
        match first.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Interrupted),
            // The listener is gone, so no signal will come.
            Err(_) => std::future::pending().await,
        }
    }
}
