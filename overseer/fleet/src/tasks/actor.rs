//! The shell around [`TaskCore`]: feeds events in, carries effects out, and waits for nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::{self, AttemptRef, CallResult, call_result, order};
use overseer_protocol::{Attempt, CallErrorCode, Cause, TaskId};
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::at_work::{Admission, Admitted, AtWork, Payload};
use super::record::{AttemptEnd, Content, TaskRecord};
use super::retention;
use super::storage::{Change, TaskStorage};
use super::writer::{self, Written};
use super::{MAX_TASK_BYTES, MAX_TASKS, SubmitError, TaskError};
use crate::blobs::BlobError;
use crate::claims::millis;
use crate::clock;
use crate::condition;
use crate::core::{Backoff, Life, Millis, TaskCore, TaskCount, TaskEffect, TaskEvent, Trust};
use crate::fleet::{FleetShared, Place, Places, Stopped};
use crate::mailbox::Mailbox;
use crate::metrics::{FleetMetrics, Stage};
use crate::payload::Payloads;
use crate::session::{Body, TaskCall};
use crate::store::Revision;
use crate::trace::{FleetTracer, run_of_attempt};

/// Until a result that could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the last changes may take when a fleet stops.
const LAST_WRITES: Duration = Duration::from_secs(10);

pub(crate) enum TaskMessage {
    Event(TaskEvent),
    /// A task that is in the store.
    Known(Box<TaskRecord>, Revision, AtWork),
    /// An attempt has a result, which is in the blobs or comes with this.
    Result(Life, TaskId, Attempt, Content, Option<Bytes>, Place),
    Written(Written),
    /// Told when the task is over, or is not known here.
    Wait(TaskId, oneshot::Sender<()>, OwnedSemaphorePermit),
    Count(oneshot::Sender<TaskCount>, OwnedSemaphorePermit),
    /// An answer of a labor, and its place among those of that labor.
    Answered(TaskEvent, Place),
    /// Such an answer has come, of which spans are made. It goes before it, so that place is for both.
    Seen(TaskId, Box<CallResult>),
    /// Tasks that somebody wants gone wait beside the mailbox.
    Cancels,
    /// No labor is left: what runs is lost. Told when everything is stored.
    End(oneshot::Sender<()>),
}

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

pub(crate) struct TasksActor;

pub(crate) struct TasksArguments {
    /// The fleet holds the tasks, not the other way round.
    shared: Weak<FleetShared>,
    metrics: Arc<FleetMetrics>,
    tracer: Option<FleetTracer>,
    changes: mpsc::UnboundedSender<Change>,
    cancels: Arc<Mutex<BTreeSet<TaskId>>>,
    backoff: Backoff,
}

pub(crate) struct TasksState {
    core: TaskCore,
    shared: Weak<FleetShared>,
    metrics: Arc<FleetMetrics>,
    tracer: Option<FleetTracer>,
    myself: Mailbox<TaskMessage>,
    changes: mpsc::UnboundedSender<Change>,
    cancels: Arc<Mutex<BTreeSet<TaskId>>>,
    held: HashMap<TaskId, AtWork>,
    /// Results whose record is being written.
    results: HashMap<TaskId, Bytes>,
    waiting: HashMap<TaskId, Vec<oneshot::Sender<()>>>,
    armed: Option<Millis>,
    /// Told when nothing is on its way to the store.
    ending: Option<oneshot::Sender<()>>,
}

impl Actor for TasksActor {
    type Msg = TaskMessage;
    type State = TasksState;
    type Arguments = TasksArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<TaskMessage>,
        arguments: TasksArguments,
    ) -> Result<TasksState, ActorProcessingErr> {
        let TasksArguments { shared, metrics, tracer, changes, cancels, backoff } = arguments;
        metrics.task_actor.reset();
        for gauge in [&metrics.queued, &metrics.running, &metrics.task_writes] {
            gauge.store(0, Ordering::Relaxed);
        }
        Ok(TasksState {
            myself: Mailbox::new(myself, &metrics.task_actor),
            metrics,
            tracer,
            core: TaskCore::new(backoff, crate::random::u64()),
            shared,
            changes,
            cancels,
            held: HashMap::new(),
            results: HashMap::new(),
            waiting: HashMap::new(),
            armed: None,
            ending: None,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<TaskMessage>,
        message: TaskMessage,
        state: &mut TasksState,
    ) -> Result<(), ActorProcessingErr> {
        state.metrics.task_actor.taken();
        match message {
            TaskMessage::Event(event) => {
                if event == TaskEvent::Tick {
                    state.armed = None;
                }
                state.event(event);
            }
            TaskMessage::Known(record, revision, mut held) => {
                held.begin(&record, &state.metrics, state.tracer.as_ref());
                state.held.insert(record.task, held);
                state.event(TaskEvent::Known(record, revision));
            }
            TaskMessage::Answered(event, _place) => state.event(event),
            TaskMessage::Cancels => {
                let tasks = std::mem::take(&mut *state.cancels.lock());
                tasks.into_iter().for_each(|task| state.event(TaskEvent::Cancel(task)));
            }
            TaskMessage::Result(life, task, attempt, content, bytes, _place) => {
                // An answer that is said twice says the same.
                if let Some(bytes) = bytes {
                    state.results.entry(task).or_insert(bytes);
                }
                let (end, trust) = (Ok(content), Trust::Full);
                state.event(TaskEvent::Answered { life, task, attempt, end, trust });
                if state.core.get(task).is_none_or(|record| !record.is_over()) {
                    state.results.remove(&task);
                }
            }
            TaskMessage::Written(Written::Stored(task, revision)) => {
                state.metrics.task_writes.fetch_sub(1, Ordering::Relaxed);
                state.event(TaskEvent::Stored(task, revision));
            }
            TaskMessage::Written(Written::Foreign(task)) => {
                state.metrics.task_writes.fetch_sub(1, Ordering::Relaxed);
                // Whoever changed it has taken over the fleet: what we know is of no use any more.
                tracing::error!(%task, "the task was changed by another server; it is left to that one");
            }
            TaskMessage::Wait(task, reply, _place) => match state.core.get(task) {
                Some(_) => {
                    let waiting = state.waiting.entry(task).or_default();
                    // Who has gone away waits no longer.
                    waiting.retain(|waiter| !waiter.is_closed());
                    waiting.push(reply);
                }
                None => drop(reply.send(())),
            },
            TaskMessage::Seen(task, result) => {
                if let Some(held) = state.held.get_mut(&task) {
                    held.answered(&result);
                }
            }
            TaskMessage::Count(reply, _place) => drop(reply.send(state.core.count())),
            TaskMessage::End(reply) => {
                state.event(TaskEvent::Survivors(BTreeSet::new()));
                state.ending = Some(reply);
            }
        }
        if let Some(ending) = state.ending.take_if(|_| state.metrics.task_writes.load(Ordering::Relaxed) == 0)
        {
            let _ = ending.send(());
        }
        state.arm();
        Ok(())
    }
}

impl TasksState {
    fn now(&self) -> Millis {
        millis(clock::now())
    }

    fn arm(&mut self) {
        let now = self.now();
        let Some(next) = self.core.next_deadline(now) else { return };
        if self.armed.is_some_and(|armed| armed <= next && armed > now) {
            return;
        }
        self.armed = Some(next);
        let (at, actor) = (Duration::from_millis(next.saturating_sub(now)), self.myself.clone());
        tokio::spawn(async move {
            tokio::time::sleep(at).await;
            let _ = actor.cast(TaskMessage::Event(TaskEvent::Tick));
        });
    }

    fn event(&mut self, event: TaskEvent) {
        let now = self.now();
        let mut effects: std::collections::VecDeque<_> = self.core.on_event(now, event).into();
        while let Some(effect) = effects.pop_front() {
            if let Some(event) = self.carry_out(effect) {
                effects.extend(self.core.on_event(now, event));
            }
        }
    }

    /// Does it; what follows at once comes back.
    fn carry_out(&mut self, effect: TaskEffect) -> Option<TaskEvent> {
        match effect {
            TaskEffect::Store(record, revision) => {
                let result = self.results.get(&record.task).filter(|_| record.is_over()).cloned();
                if let Some(held) = self.held.get_mut(&record.task) {
                    held.enter(&record, &self.metrics, self.tracer.as_ref());
                }
                self.metrics.task_writes.fetch_add(1, Ordering::Relaxed);
                // The writer ends after us.
                let _ = self.changes.send(Change { record, revision, result });
            }
            TaskEffect::Send { task, attempt, life, session } => {
                let sent = self.send(task, attempt, life, session);
                return (!sent).then_some(TaskEvent::NotSent(task, attempt));
            }
            TaskEffect::Cancel { task, attempt, life } => {
                self.order(life, order::Kind::CancelTask(named(task, attempt)));
            }
            TaskEffect::AskBack { task, attempt, life } => {
                self.order(life, order::Kind::AskBack(named(task, attempt)));
            }
            TaskEffect::Forget { task, attempt, life } => {
                self.order(life, order::Kind::ForgetTask(named(task, attempt)));
            }
            TaskEffect::Over(record) => {
                self.held.remove(&record.task);
                self.results.remove(&record.task);
                for waiting in self.waiting.remove(&record.task).unwrap_or_default() {
                    let _ = waiting.send(());
                }
            }
        }
        None
    }

    fn send(
        &self,
        task: TaskId,
        attempt: Attempt,
        life: Life,
        session: overseer_protocol::SessionId,
    ) -> bool {
        let (Some(shared), Some(record), Some(held)) =
            (self.shared.upgrade(), self.core.get(task), self.held.get(&task))
        else {
            return false;
        };
        let Some(session) = shared.session(session) else { return false };
        if let Some(labor) = shared.present(life.labor, life.generation) {
            labor.assign(task);
        }
        let body = match &held.payload {
            Payload::Inline(bytes) => Body::Inline(bytes.clone()),
            Payload::Blob(digest) => Body::Blob(digest.clone()),
        };
        let trace = run_of_attempt(record, attempt, self.tracer.is_some());
        let (method, run) = (record.method.clone(), record.run());
        let call = TaskCall { task, attempt, method, body, run, trace };
        session.send_task(call).inspect_err(|error| tracing::debug!(%task, %error, "not sent")).is_ok()
    }

    fn order(&self, life: Life, kind: order::Kind) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Some(session) = shared.session_of(life) {
            session.order(kind);
        }
    }
}

fn named(task: TaskId, attempt: Attempt) -> proto::AttemptRef {
    AttemptRef { task: Bytes::copy_from_slice(&task.to_bytes()), attempt: attempt.0 }
}
