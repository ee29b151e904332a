//! How a fleet ends: with its labors, or without them.

use std::sync::Arc;

use ractor::RpcReplyPort;

use super::actor::{FleetMessage, FleetState};
use crate::mailbox::Mailbox;

/// What becomes of the labors.
#[derive(Clone, Copy, PartialEq)]
enum Labors {
    /// None is left.
    Ended,
    /// They go on.
    Left,
}

impl FleetState {
    /// Waits for the next deadline, or ends where nothing is left to be waited for.
    pub(super) fn go_on(&mut self, myself: &Mailbox<FleetMessage>) {
        self.say_upgrade();
        if !self.core.is_stopping() || !self.core.is_empty() {
            return self.arm(myself);
        }
        let replies = std::mem::take(&mut self.stopping);
        self.end(Labors::Ended, replies, myself);
    }

    /// Ends this actor and nothing else. It decides no more: what the ends of the sessions would
    /// say of the labors is not true of them.
    pub(super) fn leave(&mut self, reply: RpcReplyPort<()>, myself: &Mailbox<FleetMessage>) {
        self.nodes.plane.hide(&self.shared);
        self.shared.leave();
        self.end(Labors::Left, vec![reply], myself);
    }

    fn end(&mut self, labors: Labors, replies: Vec<RpcReplyPort<()>>, myself: &Mailbox<FleetMessage>) {
        let (nodes, over) = (Arc::clone(&self.nodes), self.over.take());
        tokio::spawn(async move {
            if let Some(tasks) = nodes.shared.tasks.get() {
                match labors {
                    // None could answer for any of them.
                    Labors::Ended => tasks.end().await,
                    Labors::Left => tasks.stop().await,
                }
            }
            if let Err(error) = nodes.records.flush(nodes.plane.store()).await {
                tracing::error!(%error, "the last states of labors could not be stored; they are found out anew");
            }
            // Only now, for who takes the name reads what is stored.
            nodes.plane.release(&nodes.shared);
            if nodes.owns_plane {
                nodes.plane.shutdown().await;
            }
            let what = match labors {
                Labors::Ended => "the fleet has ended",
                Labors::Left => "the fleet is left: its labors go on",
            };
            tracing::info!(fleet = %nodes.shared.name, "{what}");
            drop(over);
            for reply in replies {
                let _ = reply.send(());
            }
        });
        // The callbacks are still told what they have not been told yet.
        if let Some(handler) = self.shared.handler.get() {
            handler.finish(myself.get_cell());
        }
        myself.stop(None);
    }
}
