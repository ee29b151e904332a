//! A watch reads the log at its own pace: the writer never waits for it, and what has gone from
//! the log before it was read it is told by `Compacted`.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Shared;
use super::log::{self, Page};
use crate::store::{Change, Revision};

/// Changes that wait for a reader.
pub(super) const WATCH_CAPACITY: usize = 64;

/// Sends changes after `from` until the reader or the store goes.
pub(super) async fn run(shared: Arc<Shared>, prefix: String, from: Revision, changes: mpsc::Sender<Change>) {
    let mut published = shared.published.subscribe();
    let place = shared.log.read().place(from);
    let mut place = match place {
        Ok(place) => place,
        Err(revision) => return drop(changes.send(Change::Compacted(revision)).await),
    };
    loop {
        if published.borrow_and_update().is_none() {
            return;
        }
        let page = shared.log.read().page(place, &prefix);
        match page {
            Page::Changes(page, next, more) => {
                place = next;
                // One from a revision that is yet to come begins there.
                for change in page.into_iter().filter(|change| log::revision(change) > from) {
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                if more {
                    continue;
                }
            }
            Page::Compacted(revision) => return drop(changes.send(Change::Compacted(revision)).await),
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = changes.closed() => return,
        }
    }
}
