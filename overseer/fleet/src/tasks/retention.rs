//! Removes tasks whose time is over, and what they have written.

use std::sync::Arc;
use std::time::Duration;

use super::TaskError;
use super::storage::TaskStorage;
use crate::claims::millis;
use crate::clock;
use crate::logs::Logs;
use crate::store::StoreError;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(60);
/// Tasks that are removed at once.
const AT_ONCE: usize = 25;

/// For as long as the fleet lives.
pub(super) async fn run(storage: TaskStorage, logs: Arc<Logs>, retention: Duration) {
    loop {
        let before = millis(clock::now()).saturating_sub(retention.as_millis() as u64);
        loop {
            match remove(&storage, &logs, before).await {
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

/// Removes some that were over before that time; how many.
async fn remove(storage: &TaskStorage, logs: &Arc<Logs>, before_ms: u64) -> Result<usize, TaskError> {
    let over = storage.over_before(before_ms, AT_ONCE).await?;
    for ended in &over {
        // First, so that none is forgotten when this process ends here. One that cannot be removed
        // goes when it is old.
        if let Err(error) = logs.remove(ended.task).await {
            tracing::warn!(task = %ended.task, %error, "the log of an old task could not be removed");
        }
    }
    if !over.is_empty() {
        storage.remove(&over).await?;
    }
    Ok(over.len())
}
