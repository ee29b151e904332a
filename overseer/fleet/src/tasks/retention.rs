//! Removes tasks whose time is over.

use std::time::Duration;

use super::TaskError;
use super::storage::TaskStorage;
use crate::claims::millis;
use crate::clock;
use crate::store::StoreError;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(60);
/// Tasks that are removed at once.
const AT_ONCE: usize = 25;

/// For as long as the fleet lives.
pub(super) async fn run(storage: TaskStorage, retention: Duration) {
    loop {
        let before = millis(clock::now()).saturating_sub(retention.as_millis() as u64);
        loop {
            match storage.remove_over(before, AT_ONCE).await {
                Ok(0) => break,
                Ok(removed) => tracing::debug!(removed, "tasks that were over long ago are removed"),
                // The store says so itself, once.
                Err(TaskError::Store(StoreError::NotWritable { .. })) => break,
                Err(error) => {
                    tracing::warn!(%error, "old tasks could not be removed; trying again");
                    break;
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
