//! Tasks in the store. What is at work is `tasks/FLEET/TASK`, what is over `tasks-over/FLEET/TASK`;
//! payloads and results lie beside them, so that listing tasks reads no payload.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use overseer_protocol::{FleetName, MAX_PAYLOAD, TaskId};
use tokio::io::AsyncReadExt;

use super::keys;
use super::record::{Content, IdempotencyKey, TaskFailure, TaskRecord, TaskState};
use super::{SubmitError, TaskError};
use crate::blobs::{BlobError, Blobs, Reader};
use crate::store::{
    Compare, Entry, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Outcome, Pages, Revision, Store, StoreError,
    Transaction,
};

/// Payloads and results up to this many bytes are kept in the store, larger ones in the blobs.
pub(crate) const INLINE: usize = 64 * 1024;

/// The tasks of one fleet in the store.
#[derive(Clone)]
pub(crate) struct TaskStorage {
    store: Arc<dyn Store>,
    blobs: Arc<dyn Blobs>,
    fleet: FleetName,
}

/// What became of a submit.
pub(crate) enum Submitted {
    /// It is stored.
    New(Revision),
    /// The key has named this one before.
    Known(TaskId),
}

/// One change of a task that is to be written.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) record: Box<TaskRecord>,
    /// What it follows.
    pub(crate) revision: Revision,
    /// Of a task that is done, when it is kept in the store.
    pub(crate) result: Option<Bytes>,
}

/// An entry of the index by end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) task: TaskId,
    at_ms: u64,
    key: String,
}

impl TaskStorage {
    pub(crate) fn new(store: Arc<dyn Store>, blobs: Arc<dyn Blobs>, fleet: FleetName) -> Self {
        Self { store, blobs, fleet }
    }

    /// Keeps bytes: small ones go with the record, others to the blobs first.
    pub(crate) async fn keep(&self, bytes: &Bytes) -> Result<Content, BlobError> {
        let length = bytes.len() as u64;
        if bytes.len() <= INLINE {
            return Ok(Content::Store { bytes: length });
        }
        let reader: Reader = Box::pin(std::io::Cursor::new(bytes.clone()));
        let info = self.blobs.put(reader, MAX_PAYLOAD as u64).await?;
        Ok(Content::Blob { digest: info.digest, bytes: length })
    }

    /// Stores a new task, or finds the one that has its key.
    pub(crate) async fn submit(
        &self,
        record: &TaskRecord,
        payload: &Bytes,
    ) -> Result<Submitted, SubmitError> {
        let mut transaction = Transaction::new().absent(self.live(record.task));
        if let Some(key) = &record.key {
            transaction = transaction.absent(self.key(&key.name));
        }
        transaction = transaction.put(self.live(record.task), json(record));
        if matches!(record.payload, Content::Store { bytes } if bytes > 0) {
            transaction = transaction.put(self.payload(record.task), payload.clone());
        }
        if let Some(key) = &record.key {
            transaction = transaction.put(self.key(&key.name), json(&Naming { task: record.task, key }));
        }
        match (self.store.transact(transaction).await?, &record.key) {
            (Outcome::Committed(revision), _) => Ok(Submitted::New(revision)),
            (Outcome::Conflict(_), Some(key)) => self.named(key).await,
            // An id that was made twice: not with 80 random bits, but nothing is overwritten.
            (Outcome::Conflict(_), None) => Err(SubmitError::IdTaken(record.task)),
        }
    }

    async fn named(&self, key: &IdempotencyKey) -> Result<Submitted, SubmitError> {
        let storage_key = self.key(&key.name);
        let entry = self.store.get(&storage_key).await?;
        // It has been removed just now: its time was over.
        let entry = entry.ok_or_else(|| SubmitError::KeyGone(key.name.clone()))?;
        let found: keys::Named = serde_json::from_slice(&entry.value)
            .map_err(|e| SubmitError::Unreadable { key: storage_key, reason: e.to_string() })?;
        match found.key.digest == key.digest {
            true => Ok(Submitted::Known(found.task)),
            false => Err(SubmitError::KeyConflict { key: key.name.clone(), task: found.task }),
        }
    }

    /// Every task that is not over, with its payload where that is in the store.
    pub(crate) async fn load(&self) -> Result<Vec<(TaskRecord, Revision, Option<Bytes>)>, TaskError> {
        let prefix = format!("tasks/{}/", self.fleet);
        let mut found = Vec::new();
        let mut pages = Pages::of(&*self.store, &prefix);
        while let Some(entries) = pages.page().await? {
            for entry in &entries {
                let record = parse(entry)?;
                let payload = match record.payload {
                    Content::Store { bytes: 0 } => Some(Bytes::new()),
                    Content::Store { .. } => Some(self.bytes_at(&self.payload(record.task)).await?),
                    Content::Blob { .. } => None,
                };
                found.push((record, entry.revision, payload));
            }
        }
        Ok(found)
    }

    /// A task, at work or over.
    pub(crate) async fn get(&self, task: TaskId) -> Result<TaskRecord, TaskError> {
        // In this order: a task moves from the first place to the second one.
        for key in [self.live(task), self.over(task)] {
            if let Some(entry) = self.store.get(&key).await? {
                return parse(&entry);
            }
        }
        Err(TaskError::Unknown(task))
    }

    /// Up to `limit` tasks after `after`, in order of age: those at work, or those that are over.
    pub(crate) async fn list(
        &self,
        over: bool,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskRecord>, TaskError> {
        let place = if over { "tasks-over" } else { "tasks" };
        let prefix = format!("{place}/{}/", self.fleet);
        let after = after.map(|task| format!("{prefix}{task}"));
        let (entries, _) = self.store.range(&prefix, after.as_deref(), limit).await?;
        entries.iter().map(parse).collect()
    }

    /// The result of a task that is done.
    pub(crate) async fn result(&self, task: TaskId, result: &Content) -> Result<Bytes, TaskError> {
        match result {
            Content::Store { bytes: 0 } => Ok(Bytes::new()),
            Content::Store { .. } => self.bytes_at(&self.result_key(task)).await,
            Content::Blob { digest, bytes } => {
                let (_, mut reader) = self.blobs.get(digest).await?;
                let mut whole = Vec::with_capacity((*bytes as usize).min(MAX_PAYLOAD));
                reader.read_to_end(&mut whole).await.map_err(|e| TaskError::Result(e.to_string()))?;
                Ok(whole.into())
            }
        }
    }

    /// The same, read piece by piece.
    pub(crate) async fn open_result(&self, task: TaskId, result: &Content) -> Result<Reader, TaskError> {
        match result {
            Content::Blob { digest, .. } => Ok(self.blobs.get(digest).await?.1),
            Content::Store { .. } => Ok(Box::pin(std::io::Cursor::new(self.result(task, result).await?))),
        }
    }

    async fn bytes_at(&self, key: &str) -> Result<Bytes, TaskError> {
        let entry = self.store.get(key).await?;
        let missing = || TaskError::Unreadable { key: key.to_owned(), reason: "it is not there".into() };
        Ok(entry.ok_or_else(missing)?.value)
    }

    /// Writes changes, all of them in one transaction.
    ///
    /// # Errors
    /// The outer one: nothing is known of them. The inner one names the change that does not
    /// follow what is stored; then nothing was written.
    pub(crate) async fn write(&self, changes: &[Change]) -> Result<Result<Revision, usize>, StoreError> {
        let mut transaction = Transaction::new();
        for change in changes {
            let (record, task) = (&change.record, change.record.task);
            transaction.compares.push(Compare::Unchanged(self.live(task), change.revision));
            match &record.state {
                TaskState::Queued { .. } | TaskState::Running { .. } => {
                    transaction = transaction.put(self.live(task), json(record));
                }
                TaskState::Done { at_ms, .. } | TaskState::Failed { at_ms, .. } => {
                    transaction = transaction
                        .delete(self.live(task))
                        .put(self.over(task), json(record))
                        .put(self.by_end(*at_ms, task), Bytes::new());
                    if matches!(record.payload, Content::Store { bytes } if bytes > 0) {
                        transaction = transaction.delete(self.payload(task));
                    }
                    if let Some(result) = change.result.as_ref().filter(|r| !r.is_empty()) {
                        transaction = transaction.put(self.result_key(task), result.clone());
                    }
                }
            }
        }
        Ok(match self.store.transact(transaction).await? {
            Outcome::Committed(revision) => Ok(revision),
            // Each change has one compare.
            Outcome::Conflict(which) => Err(which),
        })
    }

    /// Whether a change that seemed to fail is stored nevertheless, and at which revision.
    pub(crate) async fn is_written(&self, change: &Change) -> Result<Option<Revision>, StoreError> {
        let key = match change.record.is_over() {
            true => self.over(change.record.task),
            false => self.live(change.record.task),
        };
        let entry = self.store.get(&key).await?;
        Ok(entry.filter(|e| e.value == json(&*change.record)).map(|e| e.revision))
    }

    /// Cancels a task that no fleet has at work.
    pub(crate) async fn cancel(&self, task: TaskId, now_ms: u64) -> Result<TaskRecord, TaskError> {
        loop {
            let Some(entry) = self.store.get(&self.live(task)).await? else { return self.get(task).await };
            let mut record = parse(&entry)?;
            record.cancelled = true;
            if let TaskState::Queued { .. } = record.state {
                record.state = TaskState::Failed { failure: TaskFailure::Cancelled, at_ms: now_ms };
            }
            let change = Change { record: Box::new(record), revision: entry.revision, result: None };
            if self.write(std::slice::from_ref(&change)).await?.is_ok() {
                return Ok(*change.record);
            }
            // Somebody else has changed it in between.
        }
    }

    /// The fleets that have tasks, by name.
    pub(crate) async fn fleets(store: &dyn Store) -> Result<Vec<FleetName>, StoreError> {
        let mut fleets = BTreeSet::new();
        for prefix in [keys::LIVE, keys::OVER] {
            let mut after: Option<String> = None;
            while let Some(entry) = store.range(prefix, after.as_deref(), 1).await?.0.pop() {
                let name = entry.key[prefix.len()..].split('/').next().unwrap_or_default();
                // On to the next name: this character follows the one that ends a name.
                after = Some(format!("{prefix}{name}0"));
                fleets.extend(name.parse::<FleetName>().ok());
            }
        }
        Ok(fleets.into_iter().collect())
    }

    /// Up to `limit` tasks that were over before that time, the oldest first.
    pub(crate) async fn over_before(&self, before_ms: u64, limit: usize) -> Result<Vec<Ended>, TaskError> {
        let prefix = format!("tasks-by-end/{}/", self.fleet);
        // Five keys of each task go in one transaction.
        let (entries, _) = self.store.range(&prefix, None, limit.min(MAX_OPERATIONS / 5)).await?;
        let parsed = entries.into_iter().filter_map(|entry| {
            let (at, task) = entry.key[prefix.len()..].split_once('/')?;
            let at_ms = u64::from_str_radix(at, 16).ok()?;
            Some(Ended { at_ms, task: task.parse().ok()?, key: entry.key })
        });
        Ok(parsed.take_while(|ended| ended.at_ms < before_ms).collect())
    }

    /// Removes tasks that are over. Their blobs go when no task names them.
    pub(crate) async fn remove(&self, over: &[Ended]) -> Result<(), TaskError> {
        let mut transaction = Transaction::new();
        for Ended { task, key, .. } in over {
            transaction = transaction.delete(key.clone());
            if let Some(over) = self.store.get(&self.over(*task)).await? {
                transaction = transaction.delete(self.over(*task)).delete(self.result_key(*task));
                if let Some(key) = parse(&over)?.key {
                    transaction = transaction.delete(self.key(&key.name));
                }
            }
        }
        self.store.transact(transaction).await?;
        Ok(())
    }

    fn live(&self, task: TaskId) -> String {
        keys::live(&self.fleet, task)
    }

    fn over(&self, task: TaskId) -> String {
        keys::over(&self.fleet, task)
    }

    fn payload(&self, task: TaskId) -> String {
        keys::payload(&self.fleet, task)
    }

    fn result_key(&self, task: TaskId) -> String {
        keys::result(&self.fleet, task)
    }

    fn key(&self, name: &str) -> String {
        keys::named(&self.fleet, name)
    }

    fn by_end(&self, at_ms: u64, task: TaskId) -> String {
        keys::by_end(&self.fleet, at_ms, task)
    }
}

impl Change {
    /// Most operations, and about how many bytes, of a transaction it takes.
    pub(crate) fn cost(&self) -> (usize, usize) {
        let result = self.result.as_ref().map_or(0, Bytes::len);
        (6, 4096 + result + self.record.method.len() + 512 * self.record.history.len())
    }
}

/// How many of these changes fit in one transaction; at least one.
pub(crate) fn that_fit(changes: &[Change]) -> usize {
    let (mut operations, mut bytes) = (0, 0);
    let fits = changes.iter().take_while(|change| {
        let (more, longer) = change.cost();
        operations += more;
        bytes += longer;
        operations <= MAX_OPERATIONS && bytes <= MAX_TRANSACTION_BYTES
    });
    fits.count().clamp(1, changes.len().max(1))
}

#[derive(serde::Serialize)]
struct Naming<'a> {
    task: TaskId,
    #[serde(flatten)]
    key: &'a IdempotencyKey,
}

/// Our own types are always JSON.
fn json<T: serde::Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// The record that an entry of a task is.
pub(crate) fn parse(entry: &Entry) -> Result<TaskRecord, TaskError> {
    serde_json::from_slice(&entry.value)
        .map_err(|e| TaskError::Unreadable { key: entry.key.clone(), reason: e.to_string() })
}
