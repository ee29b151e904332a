//! A watch reads the log at its own pace: the writer never waits for it, and what it has not
//! read when the log is compacted it is told by `Compacted`.

use std::ops::Bound;
use std::sync::Arc;

use ::redb::ReadTransaction;
use tokio::sync::mpsc;

use super::Shared;
use super::tables::{self, LOG};
use crate::store::{Change, Revision, StoreError};

/// Changes that wait for a reader.
pub(super) const WATCH_CAPACITY: usize = 64;
/// Bounds of what is read from the log at once.
const PAGE_CHANGES: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// The next place in the log: revision and index in it.
type Position = (u64, u32);

enum Page {
    Changes { changes: Vec<Change>, next: Position, more: bool },
    Compacted(Revision),
}

/// Sends changes after `from` until the reader or the store goes.
pub(super) async fn run(shared: Arc<Shared>, prefix: String, from: Revision, changes: mpsc::Sender<Change>) {
    let mut published = shared.published.subscribe();
    let mut position: Position = (from.0.saturating_add(1), 0);
    loop {
        if published.borrow_and_update().is_none() {
            return;
        }
        match shared.read(|read| page(read, &prefix, position)) {
            Ok(Page::Changes { changes: page, next, more }) => {
                position = next;
                for change in page {
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                if more {
                    continue;
                }
            }
            Ok(Page::Compacted(revision)) => {
                let _ = changes.send(Change::Compacted(revision)).await;
                return;
            }
            Err(StoreError::NotWritable { .. } | StoreError::Uncertain { .. }) => {
                // The writer opens the file again and publishes.
            }
            Err(error) => {
                tracing::error!(%error, prefix, "a watch ends");
                return;
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = changes.closed() => return,
        }
    }
}

fn page(read: &ReadTransaction, prefix: &str, position: Position) -> Result<Page, ::redb::Error> {
    let state = tables::read_state(read)?;
    if position.0 <= state.compacted {
        return Ok(Page::Compacted(Revision(state.compacted)));
    }
    let log = read.open_table(LOG)?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    let range = (Bound::Included(position), Bound::Unbounded);
    for (seen, row) in log.range::<(u64, u32)>(range)?.enumerate() {
        let (key, value) = row?;
        if seen == PAGE_CHANGES || bytes > PAGE_BYTES {
            return Ok(Page::Changes { changes, next: key.value(), more: true });
        }
        bytes += value.value().len();
        changes.extend(tables::decode_change(key.value().0, value.value(), prefix)?);
    }
    let next = position.max((state.revision + 1, 0));
    Ok(Page::Changes { changes, next, more: false })
}
