use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Counts, Histogram};
use crate::call::{Bound, CallError};
use crate::core::Finding;
use crate::mailbox::Depth;
use crate::tasks::TaskState;

/// The causes of an end, as `Cause::code` has them.
const CAUSES: &[&str] = &[
    "asked",
    "idle",
    "reclaimed",
    "heartbeat_lost",
    "connection_lost",
    "exited",
    "signal",
    "out_of_memory",
    "panicked",
    "hung",
    "unhealthy",
    "boot_failed",
    "boot_timeout",
    "adapter_error",
    "owner_lost",
    "policy",
    "other",
];

/// How a call may come out: the codes of its errors without what they begin with.
const OUTCOMES: &[&str] = &[
    "ok",
    "answered",
    "labor_lost",
    "not_ready",
    "no_labor",
    "overloaded",
    "too_large",
    "no_answer",
    "codec",
    "blobs",
    "abandoned",
];

/// States on the way to ready that take time.
pub(super) const PHASES: [&str; 5] = ["requested", "booting", "joining", "connected", "loaded"];

/// What one fleet counts.
#[derive(Debug)]
pub(crate) struct FleetMetrics {
    pub(crate) starts: AtomicU64,
    pub(crate) ends: Counts,
    pub(crate) restarts: AtomicU64,
    pub(crate) phases: [Histogram; PHASES.len()],
    pub(crate) start: Histogram,
    pub(crate) release_bytes: Counts,
    pub(crate) upgrades: Counts,
    pub(crate) heartbeats: AtomicU64,
    pub(crate) silences: AtomicU64,
    pub(crate) calls: Counts,
    pub(crate) call: Histogram,
    pub(crate) casts: AtomicU64,
    pub(crate) queued: AtomicI64,
    pub(crate) running: AtomicI64,
    pub(crate) transitions: Counts,
    pub(crate) queue: Histogram,
    pub(crate) run: Histogram,
    pub(crate) attempts_lost: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) task_writes: AtomicI64,
    pub(crate) records: AtomicU64,
    pub(crate) record_bytes: AtomicU64,
    pub(crate) dropped: Counts,
    pub(crate) refused: Counts,
    pub(crate) queue_dropped: Counts,
    pub(crate) passes: Counts,
    pub(crate) findings: Counts,
    pub(crate) brakes: AtomicU64,
    pub(crate) fleet_actor: Arc<Depth>,
    pub(crate) task_actor: Arc<Depth>,
    pub(crate) callbacks: Arc<Depth>,
}

impl Default for FleetMetrics {
    fn default() -> Self {
        Self {
            starts: AtomicU64::default(),
            ends: Counts::new(CAUSES),
            restarts: AtomicU64::default(),
            phases: PHASES.map(|_| Histogram::new(Histogram::LONG)),
            start: Histogram::new(Histogram::LONG),
            release_bytes: Counts::new(&["overseer", "cache"]),
            upgrades: Counts::new(&["done", "rolled_back"]),
            heartbeats: AtomicU64::default(),
            silences: AtomicU64::default(),
            calls: Counts::new(OUTCOMES),
            call: Histogram::new(Histogram::SHORT),
            casts: AtomicU64::default(),
            queued: AtomicI64::default(),
            running: AtomicI64::default(),
            transitions: Counts::new(&["queued", "running", "done", "failed"]),
            queue: Histogram::new(Histogram::LONG),
            run: Histogram::new(Histogram::LONG),
            attempts_lost: AtomicU64::default(),
            quarantined: AtomicU64::default(),
            task_writes: AtomicI64::default(),
            records: AtomicU64::default(),
            record_bytes: AtomicU64::default(),
            dropped: Counts::new(&["labor", "callbacks"]),
            refused: Counts::new(&[
                "calls_waiting",
                "session_calls",
                "session_orders",
                "session_bytes",
                "state_casts",
                "tasks",
            ]),
            queue_dropped: Counts::new(&[
                "callbacks",
                "telemetry_callbacks",
                "telemetry_subscribers",
                "event_subscribers",
            ]),
            passes: Counts::new(&["done", "failed"]),
            findings: Counts::new(&[
                "intent_without_machine",
                "machine_without_intent",
                "session_without_labor",
                "record_without_labor",
            ]),
            brakes: AtomicU64::default(),
            fleet_actor: Arc::default(),
            task_actor: Arc::default(),
            callbacks: Arc::default(),
        }
    }
}

/// One more.
pub(crate) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl FleetMetrics {
    /// A call has failed, before or after it was sent.
    pub(crate) fn call_failed(&self, error: &CallError) {
        self.calls.add(error.code().trim_start_matches("call."));
        self.refusal(error);
    }

    /// A cast came out so.
    pub(crate) fn cast(&self, sent: &Result<(), CallError>) {
        match sent {
            Ok(()) => one(&self.casts),
            Err(error) => self.refusal(error),
        }
    }

    fn refusal(&self, error: &CallError) {
        if let CallError::Overloaded { bound, .. } = error {
            self.refused.add(match bound {
                Bound::Calls(_) => "session_calls",
                Bound::Waiting(_) => "session_orders",
                Bound::Bytes(_) => "session_bytes",
            });
        }
    }

    /// What a pass of the reconciler has found.
    pub(crate) fn found(&self, finding: &Finding) {
        self.findings.add(match finding {
            Finding::IntentWithoutMachine(_) => "intent_without_machine",
            Finding::MachineWithoutIntent(_) => "machine_without_intent",
            Finding::SessionWithoutLabor(_) => "session_without_labor",
            Finding::RecordWithoutLabor(_) => "record_without_labor",
        });
    }
}

/// Where a task stands, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Queued,
    Running,
    Done,
    Failed,
}

impl Stage {
    pub(crate) fn of(state: &TaskState) -> Self {
        match state {
            TaskState::Queued { .. } => Self::Queued,
            TaskState::Running { .. } => Self::Running,
            TaskState::Done { .. } => Self::Done,
            TaskState::Failed { .. } => Self::Failed,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Where tasks of this stage are counted, while they are at work.
    pub(crate) fn gauge(self, metrics: &FleetMetrics) -> Option<&AtomicI64> {
        match self {
            Self::Queued => Some(&metrics.queued),
            Self::Running => Some(&metrics.running),
            Self::Done | Self::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::{BootPhase, Cause, LaborId, LaborState};

    use super::*;

    #[test]
    fn every_cause_and_every_error_of_a_call_has_a_name_of_its_own() {
        let text = String::new;
        let causes = [
            Cause::Asked,
            Cause::Idle,
            Cause::Reclaimed { notice: text() },
            Cause::HeartbeatLost { silent_ms: 0 },
            Cause::ConnectionLost,
            Cause::Exited { code: 0 },
            Cause::Signal { signal: 9 },
            Cause::OutOfMemory,
            Cause::Panicked { message: text() },
            Cause::Hung { after_ms: 0 },
            Cause::Unhealthy { reason: text() },
            Cause::BootFailed { phase: BootPhase::Boot, reason: text() },
            Cause::BootTimeout { phase: BootPhase::Boot, after_ms: 0 },
            Cause::AdapterError { reason: text() },
            Cause::OwnerLost,
            Cause::Policy { rule: text() },
        ];
        assert!(causes.iter().map(Cause::code).eq(CAUSES[..CAUSES.len() - 1].iter().copied()));
        let labor = LaborId::new(1, 1);
        let errors = [
            CallError::Answered {
                code: overseer_protocol::CallErrorCode::Agent,
                message: text(),
                cause: None,
            },
            CallError::LaborLost { labor, cause: Cause::Asked },
            CallError::NotReady { labor, state: LaborState::Lost },
            CallError::NoLabor { waited: Default::default() },
            CallError::Overloaded { labor, bound: Bound::Calls(1) },
            CallError::TooLarge { size: 1, limit: 0 },
            CallError::NoAnswer { after: Default::default() },
            CallError::Codec { what: "result", reason: text() },
            CallError::Blobs(text()),
        ];
        let metrics = FleetMetrics::default();
        errors.iter().for_each(|error| metrics.call_failed(error));
        let counted: Vec<_> = metrics.calls.all().map(|(_, n)| n).collect();
        assert_eq!(counted, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    }
}
