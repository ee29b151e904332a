//! What callers want of the fleet's actor. Its mailbox has no bound of its own, so what may be said
//! without waiting is kept here, once for each labor, and what is asked waits for a place.

use std::collections::BTreeSet;
use std::sync::Arc;

use overseer_protocol::LaborId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that wait in the mailbox of an actor; who has one more waits for a place.
pub(crate) const WAITING_ASKS: usize = 1024;

/// Places in a mailbox, given back when the actor has taken the message.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self::new(WAITING_ASKS)
    }
}

impl Places {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Waits for one. It goes with the message, so that who stops waiting leaves no more behind.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        // They are never closed.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// Commands that the actor has not taken yet. Each can be given again without end, and is there
/// once: the labors of the fleet bound them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) drain_all: bool,
    pub(crate) drain: BTreeSet<LaborId>,
    pub(crate) terminate_all: bool,
    pub(crate) terminate: BTreeSet<LaborId>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Commands {
    given: Mutex<Given>,
    pub(crate) places: Places,
}

impl Commands {
    /// Adds one; true when the actor is to be told that some wait.
    pub(crate) fn give(&self, command: impl FnOnce(&mut Given)) -> bool {
        let mut given = self.given.lock();
        let first = *given == Given::default();
        command(&mut given);
        first && *given != Given::default()
    }

    pub(crate) fn take(&self) -> Given {
        std::mem::take(&mut self.given.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_given_without_end_is_there_once() {
        let (commands, labor) = (Commands::default(), LaborId::new(1, 1));
        let told = (0..100_000).filter(|_| {
            commands.give(|given| _ = given.drain.insert(labor))
                | commands.give(|given| _ = given.terminate.insert(labor))
                | commands.give(|given| given.terminate_all = true)
        });
        assert_eq!(told.count(), 1);
        let given = commands.take();
        assert_eq!((given.drain.len(), given.terminate.len(), given.terminate_all), (1, 1, true));
        assert!(commands.give(|given| given.drain_all = true), "the actor is told again");
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_until_the_actor_has_taken_a_message() {
        let places = Places::default();
        let mut mailbox = Vec::new();
        for _ in 0..WAITING_ASKS {
            mailbox.push(places.take().await);
        }
        let mut next = Box::pin(places.take());
        assert!(waits(&mut next).await, "one more than there are places");
        mailbox.pop();
        assert!(next.await.is_some());
    }

    /// Whether it is not ready when it is polled once.
    async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
        std::future::poll_fn(|cx| {
            let pending = std::pin::Pin::new(&mut *future).poll(cx).is_pending();
            std::task::Poll::Ready(pending)
        })
        .await
    }
}
