//! The way to the tasks of one fleet: for who submits them and asks for them, and for what labors answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::{CallResult, call_result};
use overseer_protocol::{Attempt, CallErrorCode, Cause, TaskId};
use parking_lot::Mutex;
use ractor::Actor;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::actor::{TaskMessage, TasksActor, TasksArguments};
use super::at_work::{Admission, Admitted, AtWork, Payload};
use super::record::{AttemptEnd, Content, TaskRecord};
use super::retention;
use super::storage::TaskStorage;
use super::writer;
use super::{MAX_TASK_BYTES, MAX_TASKS, SubmitError, TaskError};
use crate::blobs::BlobError;
use crate::condition;
use crate::core::{Backoff, Life, TaskCount, TaskEvent, Trust};
use crate::fleet::{FleetShared, Place, Places, Stopped};
use crate::mailbox::Mailbox;
use crate::metrics::{FleetMetrics, Stage};
use crate::payload::Payloads;
use crate::store::Revision;

/// Until a result that could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the last changes may take when a fleet stops.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// The way to the tasks of one fleet.
pub(crate) struct Tasks {
    pub(crate) storage: TaskStorage,
    actor: Mailbox<TaskMessage>,
    admission: Arc<Admission>,
    metrics: Arc<FleetMetrics>,
    /// Spans are recorded.
    traced: bool,
    places: Places,
    /// Tasks that somebody wants gone, each once.
    cancels: Arc<Mutex<BTreeSet<TaskId>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    retention: JoinHandle<()>,
}

impl Tasks {
    /// Starts with what the store has.
    pub(crate) async fn start(
        storage: TaskStorage,
        shared: &Arc<FleetShared>,
        backoff: Backoff,
    ) -> Result<Self, TaskError> {
        let found = storage.load().await?;
        let (send, changes) = mpsc::unbounded_channel();
        let (metrics, keep) = (Arc::clone(&shared.metrics), shared.options.task_retention);
        let logs = Arc::clone(&shared.logs);
        let (tracer, shared) = (shared.tracer.clone(), Arc::downgrade(shared));
        let traced = tracer.is_some();
        let cancels: Arc<Mutex<BTreeSet<TaskId>>> = Arc::default();
        let arguments = TasksArguments {
            shared,
            metrics: Arc::clone(&metrics),
            tracer,
            changes: send,
            cancels: Arc::clone(&cancels),
            backoff,
        };
        let spawned = TasksActor::spawn(None, TasksActor, arguments).await;
        let (actor, _) = spawned.map_err(|_| Stopped)?;
        let actor = Mailbox::new(actor, &metrics.task_actor);
        let tell = actor.clone();
        let writer = tokio::spawn(writer::run(storage.clone(), changes, move |written| {
            // An actor that has stopped decides no more.
            let _ = tell.cast(TaskMessage::Written(written));
        }));
        let retention = tokio::spawn(retention::run(storage.clone(), logs, keep));
        let (admission, writer) = (Arc::default(), Mutex::new(Some(writer)));
        let places = Places::default();
        let tasks = Self { storage, actor, admission, metrics, traced, places, cancels, writer, retention };
        for (record, revision, payload) in found {
            let place = tasks.place(payload.as_ref().map_or(0, Bytes::len));
            tasks.known(record, revision, payload.unwrap_or_default(), place);
        }
        Ok(tasks)
    }

    /// A place for one more task.
    pub(super) fn admit(&self, bytes: usize) -> Result<Admitted, SubmitError> {
        if self.actor.get_status() >= ractor::ActorStatus::Stopping {
            return Err(Stopped.into());
        }
        let place = self.place(if bytes <= super::storage::INLINE { bytes } else { 0 });
        let (tasks, held) = self.admission.now();
        match tasks <= MAX_TASKS && held <= MAX_TASK_BYTES {
            true => Ok(place),
            false => {
                self.metrics.refused.add("tasks");
                Err(SubmitError::Full { tasks: tasks - 1, bytes: held - place.bytes })
            }
        }
    }

    /// Tasks that are at work, and bytes of their payloads.
    pub(crate) fn admitted(&self) -> (usize, usize) {
        self.admission.now()
    }

    /// A task that was submitted just now.
    pub(super) fn submitted(&self, record: TaskRecord, revision: Revision, payload: Bytes, place: Admitted) {
        self.metrics.transitions.add(Stage::Queued.name());
        self.known(record, revision, payload, place);
    }

    fn place(&self, bytes: usize) -> Admitted {
        Admitted::take(&self.admission, bytes)
    }

    /// A task that is stored is at work from now on.
    fn known(&self, record: TaskRecord, revision: Revision, payload: Bytes, place: Admitted) {
        let payload = match &record.payload {
            Content::Store { .. } => Payload::Inline(payload),
            Content::Blob { digest, .. } => Payload::Blob(digest.clone()),
        };
        let held = AtWork::new(payload, &record.state, place);
        let _ = self.actor.cast(TaskMessage::Known(Box::new(record), revision, held));
    }

    pub(crate) fn event(&self, event: TaskEvent) {
        // A fleet that has stopped has nothing to do.
        let _ = self.actor.cast(TaskMessage::Event(event));
    }

    /// Returns when the task is over.
    pub(super) async fn wait(&self, task: TaskId) -> Result<(), Stopped> {
        let (send, receive) = oneshot::channel();
        let place = self.places.take().await.ok_or(Stopped)?;
        self.actor.cast(TaskMessage::Wait(task, send, place)).map_err(|_| Stopped)?;
        receive.await.map_err(|_| Stopped)
    }

    pub(crate) async fn count(&self) -> Result<TaskCount, Stopped> {
        let (send, receive) = oneshot::channel();
        let place = self.places.take().await.ok_or(Stopped)?;
        self.actor.cast(TaskMessage::Count(send, place)).map_err(|_| Stopped)?;
        receive.await.map_err(|_| Stopped)
    }

    /// Somebody wants a task gone.
    pub(super) fn cancel(&self, task: TaskId) {
        let mut cancels = self.cancels.lock();
        let first = cancels.is_empty();
        cancels.insert(task);
        if first {
            // A fleet that has stopped has nothing to do.
            let _ = self.actor.cast(TaskMessage::Cancels);
        }
    }

    /// An attempt was answered. The place is given back when that is dealt with, which takes as long
    /// as the disk where the result is large.
    pub(crate) fn answered(
        &self,
        life: Life,
        result: CallResult,
        trust: Trust,
        payloads: &Arc<Payloads>,
        place: Place,
    ) {
        let Some(task) = TaskId::from_bytes(&result.task) else {
            tracing::warn!(labor = %life.labor, "an answer names no task");
            return;
        };
        let attempt = Attempt(result.attempt);
        if self.traced {
            let _ = self.actor.cast(TaskMessage::Seen(task, Box::new(result.clone())));
        }
        let end = match result.outcome {
            Some(call_result::Outcome::Ok(bytes)) => return self.keep(life, task, attempt, bytes, place),
            Some(call_result::Outcome::OkBlob(digest)) => match payloads.accept(&digest) {
                Some(kept) => {
                    let (payloads, actor) = (Arc::clone(payloads), self.actor.clone());
                    let storage = self.storage.clone();
                    tokio::spawn(async move {
                        match payloads.read(&kept).await {
                            Ok(bytes) => keep(storage, actor, life, task, attempt, bytes, place).await,
                            // The agent has it still, and says it again over its next session.
                            Err(error) => tracing::error!(%error, %task, "a result cannot be read"),
                        }
                    });
                    return;
                }
                None => agent_fault("the labor announced a result that it has not sent"),
            },
            Some(call_result::Outcome::Failure(failure)) => AttemptEnd::Answered {
                code: CallErrorCode::from_wire(failure.code),
                message: failure.message,
                cause: (!failure.cause.is_empty()).then(|| Cause::from_bytes(&failure.cause)),
            },
            None => agent_fault("the labor sent an empty outcome"),
        };
        let event = TaskEvent::Answered { life, task, attempt, end: Err(end), trust };
        let _ = self.actor.cast(TaskMessage::Answered(event, place));
    }

    fn keep(&self, life: Life, task: TaskId, attempt: Attempt, bytes: Bytes, place: Place) {
        if bytes.len() > super::storage::INLINE {
            let (storage, actor) = (self.storage.clone(), self.actor.clone());
            tokio::spawn(keep(storage, actor, life, task, attempt, bytes, place));
            return;
        }
        let content = Content::Store { bytes: bytes.len() as u64 };
        let _ = self.actor.cast(TaskMessage::Result(life, task, attempt, content, Some(bytes), place));
    }

    /// No labor is left: the attempts that were on one are lost, and `retry` says what follows. Returns
    /// when that is stored; the tasks that wait are for the fleet that comes after this one.
    pub(crate) async fn end(&self) {
        let (send, stored) = oneshot::channel();
        // Behind what was said of the labors before.
        if self.actor.cast(TaskMessage::End(send)).is_ok()
            && tokio::time::timeout(LAST_WRITES, stored).await.is_err()
        {
            tracing::warn!("the last attempts of tasks could not be stored; they are taken up anew");
        }
        self.stop().await;
    }

    /// Stops deciding, and returns when what was decided is stored.
    pub(crate) async fn stop(&self) {
        self.retention.abort();
        let _ = self.actor.stop_and_wait(None, None).await;
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && tokio::time::timeout(LAST_WRITES, writer).await.is_err()
        {
            tracing::error!("the last changes of tasks could not be stored; they are decided anew");
        }
    }
}

fn agent_fault(message: &str) -> AttemptEnd {
    AttemptEnd::Answered { code: CallErrorCode::Agent, message: message.to_owned(), cause: None }
}

/// Keeps a large result, however long the disk takes: the agent has it until then.
async fn keep(
    storage: TaskStorage,
    actor: Mailbox<TaskMessage>,
    life: Life,
    task: TaskId,
    attempt: Attempt,
    bytes: Bytes,
    place: Place,
) {
    loop {
        match storage.keep(&bytes).await {
            Ok(content) => {
                let bytes = matches!(content, Content::Store { .. }).then_some(bytes);
                let _ = actor.cast(TaskMessage::Result(life, task, attempt, content, bytes, place));
                return;
            }
            // That the disk is full is said once, by the condition.
            Err(BlobError::Io { source, .. }) if condition::takes_nothing(&source) => {}
            Err(error) => tracing::error!(%error, %task, "a result could not be kept; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
