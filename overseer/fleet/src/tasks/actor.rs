//! The shell around [`TaskCore`]: feeds events in, carries effects out, and waits for nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::{self, AttemptRef, CallResult, order};
use overseer_protocol::{Attempt, TaskId};
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::at_work::{AtWork, Payload};
use super::record::{Content, TaskRecord};
use super::storage::Change;
use super::writer::Written;
use crate::claims::millis;
use crate::clock;
use crate::core::{Backoff, Life, Millis, TaskCore, TaskCount, TaskEffect, TaskEvent, Trust};
use crate::fleet::{FleetShared, Place};
use crate::mailbox::Mailbox;
use crate::metrics::FleetMetrics;
use crate::session::{Body, TaskCall};
use crate::store::Revision;
use crate::trace::{FleetTracer, run_of_attempt};

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

pub(crate) struct TasksActor;

pub(crate) struct TasksArguments {
    /// The fleet holds the tasks, not the other way round.
    pub(super) shared: Weak<FleetShared>,
    pub(super) metrics: Arc<FleetMetrics>,
    pub(super) tracer: Option<FleetTracer>,
    pub(super) changes: mpsc::UnboundedSender<Change>,
    pub(super) cancels: Arc<Mutex<BTreeSet<TaskId>>>,
    pub(super) backoff: Backoff,
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
