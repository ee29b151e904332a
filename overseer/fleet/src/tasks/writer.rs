//! Writes the changes of tasks, many in one transaction and several transactions at once: the store
//! commits them together.

use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::TaskId;
use tokio::sync::{Semaphore, mpsc};

use super::storage::{Change, TaskStorage, that_fit};
use crate::store::{Revision, StoreError};

/// Transactions on their way.
const AT_ONCE: usize = 16;
/// Until a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a write.
pub(super) enum Written {
    Stored(TaskId, Revision),
    /// The task was changed by somebody else: another server has this fleet.
    Foreign(TaskId),
}

/// Writes for as long as changes come. Each task has one change on its way at most, so their number
/// bounds what waits.
pub(super) async fn run(
    storage: TaskStorage,
    mut changes: mpsc::UnboundedReceiver<Change>,
    tell: impl Fn(Written) + Send + Sync + 'static,
) {
    let (tell, places) = (Arc::new(tell), Arc::new(Semaphore::new(AT_ONCE)));
    let mut waiting: Vec<Change> = Vec::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        if waiting.is_empty() && changes.recv_many(&mut waiting, 64).await == 0 {
            return;
        }
        let rest = waiting.split_off(that_fit(&waiting));
        let batch = std::mem::replace(&mut waiting, rest);
        let (storage, tell) = (storage.clone(), Arc::clone(&tell));
        tokio::spawn(async move {
            let _place = place;
            write(&storage, batch, &*tell).await;
        });
    }
}

/// Until all of them are stored, or found to be another's.
async fn write(storage: &TaskStorage, mut batch: Vec<Change>, tell: &(dyn Fn(Written) + Send + Sync)) {
    while !batch.is_empty() {
        let outcome = storage.write(&batch).await;
        let result = match outcome {
            Ok(Ok(revision)) => {
                batch.drain(..).for_each(|change| tell(Written::Stored(change.record.task, revision)));
                Ok(())
            }
            // Alone, whatever it is: the others have nothing to do with it.
            Ok(Err(which)) if which < batch.len() => match storage.is_written(&batch[which]).await {
                Ok(Some(revision)) => {
                    tell(Written::Stored(batch.swap_remove(which).record.task, revision));
                    Ok(())
                }
                Ok(None) => {
                    tell(Written::Foreign(batch.swap_remove(which).record.task));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Ok(Err(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            match error {
                // The store says so itself, once.
                StoreError::NotWritable { .. } => tracing::debug!(%error, "tasks wait to be stored"),
                error => {
                    tracing::error!(%error, tasks = batch.len(), "tasks could not be stored; trying again")
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
