//! A task that is at work: its payload, its place among those that may be, and what is counted of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use overseer_protocol::Attempt;
use overseer_protocol::proto::CallResult;

use super::record::{AttemptEnd, TaskFailure, TaskRecord, TaskState};
use crate::clock;
use crate::metrics::{FleetMetrics, Stage, one};
use crate::trace::{FleetTracer, InFlight, attempt_queued};

/// A payload of a task that is at work, and its place among those that may be.
pub(crate) struct AtWork {
    pub(super) payload: Payload,
    /// Where it stands, and since when as far as this process has seen.
    stage: Stage,
    since: Instant,
    /// Of the attempt that runs, where somebody traces it.
    trace: Option<(Attempt, Box<InFlight>)>,
    _place: Admitted,
}

#[derive(Clone)]
pub(super) enum Payload {
    Inline(Bytes),
    Blob(String),
}

impl AtWork {
    pub(super) fn new(payload: Payload, state: &TaskState, place: Admitted) -> Self {
        Self { payload, stage: Stage::of(state), since: Instant::now(), trace: None, _place: place }
    }

    /// It is counted from now on. Of an attempt that another server has begun the answer comes here.
    pub(super) fn begin(
        &mut self,
        record: &TaskRecord,
        metrics: &FleetMetrics,
        tracer: Option<&FleetTracer>,
    ) {
        if let (TaskState::Running { attempt, labor, since_ms, .. }, Some(tracer)) = (&record.state, tracer) {
            let since = SystemTime::UNIX_EPOCH + Duration::from_millis(*since_ms);
            self.trace = tracer.attempt(record, *attempt, *labor, since).map(|trace| (*attempt, trace));
        }
        if let Some(gauge) = self.stage.gauge(metrics) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the change that this record is.
    pub(super) fn enter(
        &mut self,
        record: &TaskRecord,
        metrics: &FleetMetrics,
        tracer: Option<&FleetTracer>,
    ) {
        let stage = Stage::of(&record.state);
        if stage == self.stage {
            return;
        }
        metrics.transitions.add(stage.name());
        let before = std::mem::replace(&mut self.stage, stage);
        let took = std::mem::replace(&mut self.since, Instant::now()).elapsed();
        match before {
            Stage::Queued => {
                metrics.queue.observe(took);
                if let (TaskState::Running { attempt, labor, .. }, Some(tracer)) = (&record.state, tracer) {
                    let now = clock::now();
                    attempt_queued(tracer, record, *attempt, now.checked_sub(took).unwrap_or(now));
                    let trace = tracer.attempt(record, *attempt, *labor, now);
                    self.trace = trace.map(|trace| (*attempt, trace));
                }
            }
            Stage::Running => {
                metrics.run.observe(took);
                // Without an answer it was lost, which dropping it says.
                self.trace = None;
                let ended = record.history.last().filter(|past| past.attempt.0 == record.attempts);
                if ended.is_some_and(|past| matches!(past.end, AttemptEnd::Lost { .. })) {
                    one(&metrics.attempts_lost);
                }
            }
            Stage::Done | Stage::Failed => {}
        }
        if matches!(&record.state, TaskState::Failed { failure: TaskFailure::Quarantined { .. }, .. }) {
            one(&metrics.quarantined);
        }
        if let Some(gauge) = before.gauge(metrics) {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(gauge) = stage.gauge(metrics) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AtWork {
    /// The attempt that runs has answered so.
    pub(super) fn answered(&mut self, result: &CallResult) {
        if let Some((_, trace)) = self.trace.take_if(|(attempt, _)| attempt.0 == result.attempt) {
            trace.answered(result);
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // The fleet is left while the attempt runs: its spans are for who takes its answer.
        if let Some((_, trace)) = self.trace.take() {
            trace.forget();
        }
    }
}

/// How much is at work.
#[derive(Default)]
pub(super) struct Admission {
    tasks: AtomicUsize,
    bytes: AtomicUsize,
}

impl Admission {
    /// Tasks, and bytes of their payloads.
    pub(super) fn now(&self) -> (usize, usize) {
        (self.tasks.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// A place among the tasks that are at work, given back when dropped.
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    pub(super) bytes: usize,
}

impl Admitted {
    /// One more, whether there is room or not.
    pub(super) fn take(admission: &Arc<Admission>, bytes: usize) -> Self {
        admission.tasks.fetch_add(1, Ordering::Relaxed);
        admission.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { admission: Arc::clone(admission), bytes }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.tasks.fetch_sub(1, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
