//! Removes what no task names any more: payloads and results in blobs, and logs.
//!
//! The same bytes are one blob, whoever names them, so blobs are not removed with their task. What
//! no task named in two looks, and what nobody has put again in between, is removed: between a put
//! and the record that names it is a moment, and between two looks are hours. Where something
//! cannot be written that moment may be long, and a look does not count.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_protocol::TaskId;

use crate::blobs::{BlobError, Blobs, Digest};
use crate::clock;
use crate::condition::Condition;
use crate::logs::{LogError, Logs};
use crate::store::{Pages, Store, StoreError};
use crate::tasks::{self, Content, TaskError, TaskRecord, TaskState};

/// How long a log of a call or of a plugin host is kept after it was written last. That of a task is
/// kept as long as its task.
const OTHER_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks for it, again and again.
pub(crate) struct Sweeper {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    logs: Arc<Logs>,
    condition: Arc<Condition>,
    /// Blobs that no task named the last time, and when they had been put.
    unnamed: HashMap<Digest, SystemTime>,
}

/// What a look removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) blobs: usize,
    pub(crate) bytes: u64,
    pub(crate) logs: usize,
}

/// Why a look was not finished. It comes again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Logs(#[from] LogError),
}

/// What the tasks that are stored name.
#[derive(Default)]
struct Named {
    blobs: HashSet<Digest>,
    tasks: HashSet<TaskId>,
}

impl Sweeper {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        logs: Arc<Logs>,
        condition: Arc<Condition>,
    ) -> Self {
        Self { store, blobs, logs, condition, unnamed: HashMap::new() }
    }

    /// Looks once. What cannot be read is an error, and then nothing is removed.
    pub(crate) async fn look(&mut self) -> Result<Swept, SweepError> {
        if !self.condition.troubles().is_empty() {
            self.unnamed.clear();
            return Ok(Swept::default());
        }
        // First the list: what is put from now on is not in it.
        let listed = self.blobs.list().await?;
        let named = self.named().await?;
        let unnamed = listed.into_iter().filter(|blob| !named.blobs.contains(&blob.info.digest));
        let before = std::mem::take(&mut self.unnamed);
        let mut swept = Swept::default();
        for blob in unnamed {
            let digest = blob.info.digest;
            if before.get(&digest) != Some(&blob.put_at) {
                self.unnamed.insert(digest, blob.put_at);
            } else if self.blobs.remove_unless_put(&digest, blob.put_at).await? {
                swept.blobs += 1;
                swept.bytes += blob.info.size;
            }
        }
        let old = clock::now().checked_sub(OTHER_LOGS).unwrap_or(SystemTime::UNIX_EPOCH);
        swept.logs = self.logs.remove_old(old, named.tasks).await?;
        if swept != Swept::default() {
            let Swept { blobs, bytes, logs } = swept;
            tracing::info!(blobs, bytes, logs, "removed what no task names any more");
        }
        Ok(swept)
    }

    async fn named(&self) -> Result<Named, SweepError> {
        let mut named = Named::default();
        // In this order: a task moves from the first place to the second one.
        for prefix in [tasks::LIVE, tasks::OVER] {
            let mut pages = Pages::of(&*self.store, prefix);
            while let Some(entries) = pages.page().await? {
                for entry in &entries {
                    named.add(tasks::parse(entry)?);
                }
            }
        }
        Ok(named)
    }
}

impl Named {
    fn add(&mut self, record: TaskRecord) {
        self.tasks.insert(record.task);
        let content = match record.state {
            // Nobody runs it any more.
            TaskState::Done { result, .. } => result,
            TaskState::Failed { .. } => return,
            TaskState::Queued { .. } | TaskState::Running { .. } => record.payload,
        };
        if let Content::Blob { digest, .. } = content {
            self.blobs.insert(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::blobs::Reader;
    use crate::check::tests::filled;
    use crate::condition::Part;
    use crate::data_dir::DataDir;
    use crate::store::Transaction;
    use crate::tasks::TaskStorage;

    async fn put(data: &DataDir, bytes: &'static [u8]) -> Digest {
        let reader: Reader = Box::pin(bytes);
        data.task_blobs().put(reader, 1000).await.unwrap().digest
    }

    fn sweeper(data: &DataDir) -> Sweeper {
        let logs = Arc::new(Logs::open(&data.path().join("logs")));
        Sweeper::new(data.store(), data.task_blobs(), logs, data.condition())
    }

    async fn kept(data: &DataDir) -> usize {
        data.task_blobs().list().await.unwrap().len()
    }

    #[tokio::test]
    async fn what_no_task_names_in_two_looks_goes() {
        let directory = tempfile::tempdir().unwrap();
        let data = filled(directory.path()).await;
        let mut sweeper = sweeper(&data);
        put(&data, b"put by a server that was killed then").await;
        assert_eq!(sweeper.look().await.unwrap(), Swept::default());
        assert_eq!(sweeper.look().await.unwrap(), Swept { blobs: 1, bytes: 36, logs: 0 });
        assert_eq!(kept(&data).await, 1, "the result of the second task");
        let storage = TaskStorage::new(data.store(), data.task_blobs(), "farm".parse().unwrap());
        let over = storage.over_before(5, 10).await.unwrap();
        assert_eq!(over, [], "it ended at that time, not before");
        let over = storage.over_before(6, 10).await.unwrap();
        storage.remove(&over).await.unwrap();
        assert_eq!(over.len(), 1);
        assert_eq!(sweeper.look().await.unwrap(), Swept::default());
        assert_eq!(sweeper.look().await.unwrap(), Swept { blobs: 1, bytes: 100_000, logs: 0 });
        assert_eq!(kept(&data).await, 0);
    }

    #[tokio::test]
    async fn what_is_put_again_stays_and_what_cannot_be_read_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let data = filled(directory.path()).await;
        let mut sweeper = sweeper(&data);
        let digest = put(&data, b"again").await;
        sweeper.look().await.unwrap();
        let first = sweeper.unnamed[&digest];
        let now = loop {
            put(&data, b"again").await;
            let listed = data.task_blobs().list().await.unwrap();
            let put_at = listed.iter().find(|blob| blob.info.digest == digest).unwrap().put_at;
            if put_at != first {
                break put_at;
            }
        };
        assert_eq!(sweeper.look().await.unwrap(), Swept::default());
        assert_eq!(sweeper.unnamed[&digest], now);
        // While something cannot be written, records may be on their way for long.
        data.condition().enter(Part::Store, Path::new("/"), "it is full", u64::MAX);
        assert_eq!(sweeper.look().await.unwrap(), Swept::default());
        data.condition().leave(Part::Store);
        assert_eq!(sweeper.look().await.unwrap(), Swept::default(), "it does not count as a look");
        let broken = Transaction::new().put("tasks/farm/broken", "{");
        data.store().transact(broken).await.unwrap();
        let error = sweeper.look().await.unwrap_err();
        assert!(error.to_string().contains("tasks/farm/broken"), "{error}");
        assert_eq!(kept(&data).await, 2);
    }
}
