//! The durable tasks of one fleet as a state machine: [`TaskCore::on_event`].
//!
//! Every change of a task is stored before anything follows from it: an attempt is recorded before
//! it is sent, a result before the labor may forget it and the client hears of it. A task has at
//! most one write on its way, and nothing is decided about it before that has come back, but what
//! is heard meanwhile is kept.

mod dispatch;
mod event;
mod judge;
mod labors;

#[cfg(test)]
mod properties;
mod taken_up;
mod trust;

use std::collections::{BTreeMap, BTreeSet};

use overseer_protocol::{Attempt, Cause, LaborId, SessionId, TaskId};

pub use self::event::{TaskEffect, TaskEvent};
use self::judge::{Verdict, judge};
use self::labors::Labors;
pub use self::trust::Trust;
use super::random::Random;
use super::restart::Backoff;
use super::{Life, Millis};
use crate::store::Revision;
use crate::tasks::{AttemptEnd, Content, PastAttempt, TaskFailure, TaskRecord, TaskState};

/// How long after its run deadline an answer may still be on its way.
const MARGIN: Millis = 30_000;
/// How long what a release on trial has failed waits: one that fails much is taken back by then.
const TRIAL: Millis = 2_000;

/// How many tasks are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCount {
    /// Waiting for a labor.
    pub queued: usize,
    /// Given to one.
    pub running: usize,
    /// Over, and being stored.
    pub ending: usize,
}

/// The tasks of one fleet that are not over.
#[derive(Debug)]
pub struct TaskCore {
    backoff: Backoff,
    tasks: BTreeMap<TaskId, Task>,
    /// Tasks that may be given to a labor, by the time from which on.
    queue: BTreeSet<(Millis, TaskId)>,
    /// Those of them that must run alone.
    alone: BTreeSet<(Millis, TaskId)>,
    /// At most one for each task.
    timers: BTreeSet<(Millis, TaskId)>,
    labors: Labors,
    random: Random,
}

#[derive(Debug)]
struct Task {
    record: TaskRecord,
    revision: Revision,
    writing: bool,
    /// It has changed since that write.
    changed: bool,
    phase: Phase,
    /// An attempt whose end is being stored: the labor that had it may forget it then.
    forget: Option<(Attempt, Life)>,
    timer: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// In the queue, unless its last change is still being written.
    Queued,
    /// The attempt is being recorded; then it is sent.
    Starting { life: Life, session: SessionId },
    /// It was sent over this session; none after a restart of the server until the agent says what
    /// it has.
    Running { life: Life, session: Option<SessionId> },
    /// Its end is being stored.
    Ending,
}

impl TaskCore {
    /// Without tasks. `seed` feeds the jitter.
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        Self {
            backoff,
            tasks: BTreeMap::new(),
            queue: BTreeSet::new(),
            alone: BTreeSet::new(),
            timers: BTreeSet::new(),
            labors: Labors::default(),
            random: Random::new(seed),
        }
    }

    /// Tasks that are not over.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How many are where.
    pub fn count(&self) -> TaskCount {
        let mut count = TaskCount::default();
        for task in self.tasks.values() {
            match task.phase {
                Phase::Queued => count.queued += 1,
                Phase::Starting { .. } | Phase::Running { .. } => count.running += 1,
                Phase::Ending => count.ending += 1,
            }
        }
        count
    }

    /// A task that is not over.
    pub fn get(&self, task: TaskId) -> Option<&TaskRecord> {
        self.tasks.get(&task).map(|t| &t.record)
    }

    /// When the next [`TaskEvent::Tick`] is due.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let later = |queue: &BTreeSet<(Millis, TaskId)>| {
            queue.range((now.saturating_add(1), TaskId(0))..).next().map(|(at, _)| *at)
        };
        let timer = self.timers.first().map(|(at, _)| *at);
        [later(&self.queue), later(&self.alone), timer, self.labors.next_late()].into_iter().flatten().min()
    }

    /// Takes one event and says what is to be done. `now` is in milliseconds since the epoch, and
    /// must never go back. What is late or makes no sense changes nothing.
    pub fn on_event(&mut self, now: Millis, event: TaskEvent) -> Vec<TaskEffect> {
        let mut out = Vec::new();
        match event {
            TaskEvent::Known(record, revision) => self.known(now, *record, revision, &mut out),
            TaskEvent::Opened { life, session, places } => self.labors.open(life, session, places),
            TaskEvent::Held { life, session, attempts } => {
                self.held(now, life, session, attempts, &mut out);
            }
            TaskEvent::Closed(life) => self.labors.close(life),
            TaskEvent::Gone(life, cause) => self.gone(now, life, &cause, &mut out),
            TaskEvent::Survivors(lives) => self.survivors(now, &lives, &mut out),
            TaskEvent::Stored(task, revision) => self.stored(now, task, revision, &mut out),
            TaskEvent::NotSent(task, attempt) => self.not_sent(now, task, attempt, &mut out),
            TaskEvent::Answered { life, task, attempt, end, trust } => {
                self.answered(now, life, (task, attempt), end, trust, &mut out);
            }
            TaskEvent::Cancel(task) => self.cancel(now, task, &mut out),
            TaskEvent::Tick => self.tick(now, &mut out),
        }
        self.dispatch(now, &mut out);
        out
    }

    fn known(&mut self, now: Millis, mut record: TaskRecord, revision: Revision, out: &mut Vec<TaskEffect>) {
        let id = record.task;
        if record.is_over() || self.tasks.contains_key(&id) {
            return;
        }
        taken_up::at(&mut record, now, self.backoff.max.as_millis() as u64);
        let phase = match record.state {
            TaskState::Running { labor, generation, .. } => {
                let life = Life { labor, generation };
                self.labors.take(now, life, id);
                Phase::Running { life, session: None }
            }
            _ => Phase::Queued,
        };
        let queued = phase == Phase::Queued;
        let (writing, changed, forget, timer) = (false, false, None, None);
        let task = Task { record, revision, writing, changed, phase, forget, timer };
        self.tasks.insert(id, task);
        if queued {
            self.enqueue(id);
            self.end_if_cancelled(now, id, out);
        }
    }

    fn end_if_cancelled(&mut self, now: Millis, id: TaskId, out: &mut Vec<TaskEffect>) {
        let Some(task) = self.tasks.get(&id) else { return };
        if task.record.cancelled && task.phase == Phase::Queued && !task.writing {
            self.fail(now, id, TaskFailure::Cancelled, out);
        }
    }

    fn held(
        &mut self,
        now: Millis,
        life: Life,
        session: SessionId,
        attempts: Vec<(TaskId, Attempt)>,
        out: &mut Vec<TaskEffect>,
    ) {
        let held: BTreeSet<(TaskId, Attempt)> = attempts.into_iter().collect();
        for id in self.labors.tasks_of(life) {
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            let Phase::Running { session: had, .. } = &mut task.phase else { continue };
            if *had == Some(session) {
                // Sent after the agent spoke.
                continue;
            }
            if held.contains(&(id, Attempt(task.record.attempts))) {
                *had = Some(session);
                let expires = expires(now, &task.record);
                if task.record.cancelled {
                    out.push(TaskEffect::Cancel { task: id, attempt: Attempt(task.record.attempts), life });
                }
                self.set_timer(id, expires);
            } else {
                self.lost(now, id, Cause::ConnectionLost, out);
            }
        }
        for (task, attempt) in held {
            if !self.has(life, task, attempt) {
                out.push(TaskEffect::Forget { task, attempt, life });
            }
        }
    }

    /// Whether that attempt is the present one, or its end is being stored.
    fn has(&self, life: Life, task: TaskId, attempt: Attempt) -> bool {
        self.tasks.get(&task).is_some_and(|t| {
            let present = Attempt(t.record.attempts) == attempt
                && matches!(t.phase, Phase::Running { life: of, .. } if of == life);
            present || t.forget == Some((attempt, life))
        })
    }

    fn gone(&mut self, now: Millis, life: Life, cause: &Cause, out: &mut Vec<TaskEffect>) {
        let tasks = self.labors.tasks_of(life);
        for id in tasks {
            self.lost(now, id, cause.clone(), out);
        }
        self.labors.remove(life);
    }

    fn survivors(&mut self, now: Millis, lives: &BTreeSet<Life>, out: &mut Vec<TaskEffect>) {
        for life in self.labors.lives() {
            if !lives.contains(&life) {
                self.gone(now, life, &Cause::OwnerLost, out);
            }
        }
    }

    /// A write has come back: what waited for it follows.
    fn stored(&mut self, now: Millis, id: TaskId, revision: Revision, out: &mut Vec<TaskEffect>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        (task.revision, task.writing) = (revision, false);
        if std::mem::take(&mut task.changed) {
            return self.write(id, out);
        }
        if let Some((attempt, life)) = task.forget.take() {
            out.push(TaskEffect::Forget { task: id, attempt, life });
        }
        let attempt = Attempt(task.record.attempts);
        match task.phase.clone() {
            Phase::Queued => {
                self.enqueue(id);
                self.end_if_cancelled(now, id, out);
            }
            Phase::Starting { life, .. } if task.record.cancelled => {
                self.labors.release(now, life, id);
                self.fail(now, id, TaskFailure::Cancelled, out);
            }
            Phase::Starting { life, session } => {
                task.phase = Phase::Running { life, session: Some(session) };
                let expires = expires(now, &task.record);
                self.set_timer(id, expires);
                out.push(TaskEffect::Send { task: id, attempt, life, session });
            }
            Phase::Running { .. } => {}
            Phase::Ending => {
                if let Some(task) = self.tasks.remove(&id) {
                    out.push(TaskEffect::Over(Box::new(task.record)));
                }
            }
        }
    }

    fn not_sent(&mut self, now: Millis, id: TaskId, attempt: Attempt, out: &mut Vec<TaskEffect>) {
        let Some(task) = self.tasks.get(&id) else { return };
        if Attempt(task.record.attempts) == attempt && matches!(task.phase, Phase::Running { .. }) {
            self.lost(now, id, Cause::ConnectionLost, out);
        }
    }

    fn answered(
        &mut self,
        now: Millis,
        life: Life,
        (id, attempt): (TaskId, Attempt),
        end: Result<Content, AttemptEnd>,
        trust: Trust,
        out: &mut Vec<TaskEffect>,
    ) {
        if !self.has(life, id, attempt) {
            // An older attempt, or a task that is over: nobody wants it.
            out.push(TaskEffect::Forget { task: id, attempt, life });
            return;
        }
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.forget.is_some() {
            // Said again over a new session while it is being stored.
            return;
        }
        task.forget = Some((attempt, life));
        match end {
            Ok(result) => {
                let Life { labor, generation } = life;
                task.record.state = TaskState::Done { result, attempt, labor, generation, at_ms: now };
                self.labors.release(now, life, id);
                self.end(id, out);
            }
            Err(end) => self.ended(now, id, end, trust, out),
        }
    }

    /// The present attempt is lost.
    fn lost(&mut self, now: Millis, id: TaskId, cause: Cause, out: &mut Vec<TaskEffect>) {
        self.ended(now, id, AttemptEnd::Lost { cause }, Trust::Full, out);
    }

    /// The present attempt is over without a result.
    fn ended(&mut self, now: Millis, id: TaskId, end: AttemptEnd, trust: Trust, out: &mut Vec<TaskEffect>) {
        let random = self.random.bits();
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let life = match task.phase {
            Phase::Starting { life, .. } | Phase::Running { life, .. } => life,
            Phase::Queued | Phase::Ending => return,
        };
        let alone = self.labors.is_alone(life, id);
        let since_ms = match task.record.state {
            TaskState::Running { since_ms, .. } => since_ms,
            _ => now,
        };
        let verdict = judge(&mut task.record, &end, alone, trust, &self.backoff, random);
        let spared = match verdict {
            Verdict::Spared(release) => Some(release),
            _ => None,
        };
        task.record.remember(PastAttempt {
            attempt: Attempt(task.record.attempts),
            labor: life.labor,
            generation: life.generation,
            since_ms,
            ended_ms: now,
            end,
            spared,
        });
        self.labors.release(now, life, id);
        match verdict {
            Verdict::Over(failure) => self.fail(now, id, failure, out),
            Verdict::Again(after) => self.requeue(now, id, after, out),
            Verdict::Spared(_) => self.requeue(now, id, TRIAL, out),
        }
    }

    fn requeue(&mut self, now: Millis, id: TaskId, after: Millis, out: &mut Vec<TaskEffect>) {
        self.set_timer(id, None);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        // What need not wait goes back to its old place in the queue.
        let not_before_ms = if after == 0 { task.record.submitted_ms } else { now.saturating_add(after) };
        task.record.state = TaskState::Queued { not_before_ms };
        task.phase = Phase::Queued;
        self.write(id, out);
    }

    fn cancel(&mut self, now: Millis, id: TaskId, out: &mut Vec<TaskEffect>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.record.cancelled {
            return;
        }
        let attempt = Attempt(task.record.attempts);
        match task.phase {
            Phase::Queued if !task.writing => self.fail(now, id, TaskFailure::Cancelled, out),
            // What is on its way to the store comes back first.
            Phase::Queued | Phase::Starting { .. } => task.record.cancelled = true,
            Phase::Running { life, .. } => {
                task.record.cancelled = true;
                out.push(TaskEffect::Cancel { task: id, attempt, life });
                self.write(id, out);
            }
            Phase::Ending => {}
        }
    }

    fn tick(&mut self, now: Millis, out: &mut Vec<TaskEffect>) {
        while let Some(life) = self.labors.late(now) {
            self.ask_back(life, out);
        }
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.set_timer(id, None);
            let Some(task) = self.tasks.get(&id) else { continue };
            let attempt = Attempt(task.record.attempts);
            match task.phase {
                Phase::Queued if !task.writing => {
                    let waited_ms = now.saturating_sub(task.record.submitted_ms);
                    self.fail(now, id, TaskFailure::QueueDeadline { waited_ms }, out);
                }
                // The labor has broken its word on deadlines.
                Phase::Running { life, .. } => {
                    self.tasks.entry(id).and_modify(|t| t.forget = Some((attempt, life)));
                    let message = "no answer came within 30 s of the deadline".to_owned();
                    let code = overseer_protocol::CallErrorCode::RunDeadline;
                    let end = AttemptEnd::Answered { code, message, cause: None };
                    self.ended(now, id, end, Trust::Full, out);
                }
                _ => {}
            }
        }
    }

    fn fail(&mut self, now: Millis, id: TaskId, failure: TaskFailure, out: &mut Vec<TaskEffect>) {
        self.dequeue(id);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.record.state = TaskState::Failed { failure, at_ms: now };
            self.end(id, out);
        }
    }

    fn end(&mut self, id: TaskId, out: &mut Vec<TaskEffect>) {
        self.set_timer(id, None);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.phase = Phase::Ending;
            self.write(id, out);
        }
    }

    fn write(&mut self, id: TaskId, out: &mut Vec<TaskEffect>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if task.writing {
            task.changed = true;
            return;
        }
        task.writing = true;
        out.push(TaskEffect::Store(Box::new(task.record.clone()), task.revision));
    }

    fn set_timer(&mut self, id: TaskId, at: Option<Millis>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut task.timer, at) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at {
            self.timers.insert((at, id));
        }
    }

    /// Labors that have tasks or take them, with how many and how many at most.
    pub fn places(&self) -> Vec<(LaborId, usize, usize)> {
        self.labors.places()
    }
}

/// When an attempt that runs from now on must have been answered.
fn expires(now: Millis, record: &TaskRecord) -> Option<Millis> {
    record.run_ms.map(|run| now.saturating_add(run).saturating_add(MARGIN))
}
