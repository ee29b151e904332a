//! The way to an actor, with a count of what waits for it: mailboxes have no bound, so their depth
//! is watched.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ractor::{ActorRef, Message, MessagingErr};

/// Messages that wait for one actor: those sent without those it has begun to handle.
#[derive(Debug, Default)]
pub(crate) struct Depth(AtomicI64);

impl Depth {
    /// The actor takes a message.
    pub(crate) fn taken(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// A new actor begins with nothing.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed).max(0)
    }
}

/// A reference to an actor whose casts are counted.
pub(crate) struct Mailbox<M: Message> {
    actor: ActorRef<M>,
    depth: Arc<Depth>,
}

impl<M: Message> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { actor: self.actor.clone(), depth: Arc::clone(&self.depth) }
    }
}

impl<M: Message> Deref for Mailbox<M> {
    type Target = ActorRef<M>;

    fn deref(&self) -> &ActorRef<M> {
        &self.actor
    }
}

impl<M: Message> Mailbox<M> {
    pub(crate) fn new(actor: ActorRef<M>, depth: &Arc<Depth>) -> Self {
        Self { actor, depth: Arc::clone(depth) }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The actor has stopped.
    pub(crate) fn cast(&self, message: M) -> Result<(), MessagingErr<M>> {
        // Before the actor can take it.
        self.depth.0.fetch_add(1, Ordering::Relaxed);
        self.actor.cast(message).inspect_err(|_| self.depth.taken())
    }
}
