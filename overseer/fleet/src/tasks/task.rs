use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use overseer_protocol::{Attempt, LogStream, MAX_PAYLOAD, TaskId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::options::TaskOptions;
use super::record::{Content, IdempotencyKey, TaskRecord};
use super::storage::Submitted;
use super::{SubmitError, TaskError, Tasks};
use crate::blobs::Reader;
use crate::claims::millis;
use crate::clock;
use crate::fleet::{FleetHandle, Stopped};

/// A durable task. Cheap to clone; dropping it changes nothing, and [`FleetHandle::task`] gives it
/// again from its id, also after a restart.
#[derive(Clone)]
pub struct Task {
    id: TaskId,
    tasks: Arc<Tasks>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.id)
    }
}

impl Task {
    /// Its id.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// What is known of it.
    ///
    /// # Errors
    /// [`TaskError::Unknown`] once its time is over, and those of the store.
    pub async fn record(&self) -> Result<TaskRecord, TaskError> {
        self.tasks.storage.get(self.id).await
    }

    /// Waits until it is over, without its result.
    ///
    /// # Errors
    /// [`TaskError::Unknown`] once its time is over, [`TaskError::Stopped`] with its fleet, and those of
    /// the store.
    pub async fn over(&self) -> Result<TaskRecord, TaskError> {
        self.tasks.wait(self.id).await?;
        self.record().await
    }

    /// Waits until it is over and decodes its result.
    ///
    /// # Errors
    /// Any [`TaskError`].
    pub async fn result<Out: DeserializeOwned>(&self) -> Result<Out, TaskError> {
        let bytes = self.result_bytes().await?;
        crate::labor::decode(&bytes).map_err(|e| TaskError::Codec(e.to_string()))
    }

    /// Waits until it is over.
    ///
    /// # Errors
    /// Any [`TaskError`].
    pub async fn result_bytes(&self) -> Result<Bytes, TaskError> {
        let result = self.result_content().await?;
        self.tasks.storage.result(self.id, &result).await
    }

    /// Waits until it is over; its result is read piece by piece, and a large one is never in memory
    /// as a whole.
    ///
    /// # Errors
    /// Any [`TaskError`].
    pub async fn read_result(&self) -> Result<Reader, TaskError> {
        let result = self.result_content().await?;
        self.tasks.storage.open_result(self.id, &result).await
    }

    async fn result_content(&self) -> Result<Content, TaskError> {
        self.tasks.wait(self.id).await?;
        // What is not over by now was not known to the fleet, though it is in the store: the fleet has
        // stopped.
        self.record().await?.result().cloned()
    }

    /// Cancels it: what waits is over at once, what runs when its plugin has seen that. Fine when
    /// it is over.
    pub fn cancel(&self) {
        self.tasks.cancel(self.id);
    }

    /// The name of a log stream that an attempt writes.
    pub fn log(&self, attempt: Attempt, stream: impl Into<String>) -> LogStream {
        LogStream { task: self.id, attempt, stream: stream.into() }
    }
}

impl FleetHandle {
    /// Submits a task with the default options: stored when this returns, executed at least once.
    ///
    /// # Errors
    /// Any [`SubmitError`].
    pub async fn submit<In: Serialize + ?Sized>(
        &self,
        method: &str,
        argument: &In,
    ) -> Result<Task, SubmitError> {
        let payload = crate::labor::encode(argument).map_err(|e| SubmitError::Codec(e.to_string()))?;
        self.submit_bytes(method, payload, TaskOptions::default()).await
    }

    /// As [`FleetHandle::submit`], with bytes up to 64 MiB and options. Under a key that was used
    /// before it gives the task that it was used for.
    ///
    /// # Errors
    /// Any [`SubmitError`].
    pub async fn submit_bytes(
        &self,
        method: &str,
        payload: impl Into<Bytes>,
        options: TaskOptions,
    ) -> Result<Task, SubmitError> {
        let payload: Bytes = payload.into();
        options.check()?;
        if payload.len() > MAX_PAYLOAD {
            return Err(SubmitError::TooLarge { size: payload.len(), limit: MAX_PAYLOAD });
        }
        let tasks = self.tasks()?;
        let place = tasks.admit(payload.len())?;
        let now_ms = millis(clock::now());
        let content = tasks.storage.keep(&payload).await?;
        let key = options.key.map(|name| IdempotencyKey { digest: digest(method, &payload), name });
        let id = TaskId::new(now_ms, crate::random::u128());
        let record = TaskRecord::new(self.name().clone(), id, method, options.retry, now_ms);
        let record = TaskRecord {
            payload: content,
            key,
            queue_until_ms: options.queue.map(|queue| now_ms.saturating_add(queue.as_millis() as u64)),
            run_ms: options.run.map(|run| run.as_millis() as u64),
            trace: options.trace,
            ..record
        };
        // A client that goes away meanwhile does not leave a task that nobody works on.
        let storing = tokio::spawn({
            let tasks = Arc::clone(&tasks);
            async move {
                Ok(match tasks.storage.submit(&record, &payload).await? {
                    Submitted::New(revision) => {
                        let id = record.task;
                        tasks.submitted(record, revision, payload, place);
                        id
                    }
                    Submitted::Known(id) => id,
                })
            }
        });
        let id = storing.await.map_err(|_| SubmitError::Stopped(Stopped))?;
        id.map(|id| Task { id, tasks })
    }

    /// A task by its id, at work or over.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], and those of the store.
    pub async fn task(&self, id: TaskId) -> Result<Task, TaskError> {
        let tasks = self.tasks()?;
        tasks.storage.get(id).await?;
        Ok(Task { id, tasks })
    }

    /// Up to `limit` tasks after `after`, oldest first: those at work, or those that are over.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_tasks(
        &self,
        over: bool,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskRecord>, TaskError> {
        self.tasks()?.storage.list(over, after, limit).await
    }

    /// How many tasks are where.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_tasks(&self) -> Result<crate::core::TaskCount, Stopped> {
        self.tasks()?.count().await
    }

    fn tasks(&self) -> Result<Arc<Tasks>, Stopped> {
        self.shared.tasks.get().cloned().ok_or(Stopped)
    }
}

fn digest(method: &str, payload: &Bytes) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(&(method.len() as u64).to_le_bytes()).update(method.as_bytes()).update(payload);
    hash.finalize().to_hex().to_string()
}
