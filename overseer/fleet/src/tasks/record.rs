//! A task as it is stored, and as clients see it.

use std::collections::BTreeSet;
use std::time::Duration;

use overseer_protocol::{
    Attempt, CallErrorCode, Cause, FleetName, Generation, LaborId, ReleaseId, TaskId, TraceContext,
};
use serde::{Deserialize, Serialize};

use super::TaskError;
use crate::fleet::Stopped;

/// Attempts whose end a record keeps; the oldest go.
pub const HISTORY: usize = 16;

/// A durable task: JSON under `tasks/FLEET/TASK`. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Whose labors run it.
    pub fleet: FleetName,
    /// Its id.
    pub task: TaskId,
    /// What is called.
    pub method: String,
    /// With what.
    pub payload: Content,
    /// The client's own name of it: one task for each key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// When it is tried again.
    pub retry: Retry,
    /// When it is given up if no attempt has begun by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_until_ms: Option<u64>,
    /// Longest run of one attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// The span that its attempts are children of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// When it was taken.
    pub submitted_ms: u64,
    /// Attempts begun so far.
    pub attempts: u32,
    /// Attempts that count against `retry.times`.
    pub charged: u32,
    /// What speaks against it.
    #[serde(default, skip_serializing_if = "Suspicion::is_none")]
    pub suspicion: Suspicion,
    /// Somebody wants it gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// How its last attempts ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastAttempt>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: TaskState,
}

/// The client's own name of a task, and what it was given with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// 1 to 128 bytes.
    pub name: String,
    /// BLAKE3 of method and payload, hex: another task under the same key is refused.
    pub digest: String,
}

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub enum Content {
    /// In the store, beside the record.
    Store {
        /// Length.
        bytes: u64,
    },
    /// In the blobs.
    Blob {
        /// BLAKE3, hex.
        digest: String,
        /// Length.
        bytes: u64,
    },
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for a labor.
    Queued {
        /// And for this time.
        not_before_ms: u64,
    },
    /// An attempt was given to a labor, or is about to be.
    Running {
        /// Which.
        attempt: Attempt,
        /// To whom.
        labor: LaborId,
        /// To which life of it.
        generation: Generation,
        /// When.
        since_ms: u64,
    },
    /// It has a result.
    Done {
        /// The result.
        result: Content,
        /// Of which attempt.
        attempt: Attempt,
        /// Who made it.
        labor: LaborId,
        /// Which life of that labor.
        generation: Generation,
        /// When it came.
        at_ms: u64,
    },
    /// It has none and is not tried again.
    Failed {
        /// Why.
        failure: TaskFailure,
        /// When that was decided.
        at_ms: u64,
    },
}

/// An attempt that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttempt {
    /// Which.
    pub attempt: Attempt,
    /// Who had it.
    pub labor: LaborId,
    /// Which life of that labor.
    pub generation: Generation,
    /// When it began.
    pub since_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// How.
    pub end: AttemptEnd,
    /// It is not charged, for this release has failed it, which was on trial or taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared: Option<ReleaseId>,
}

/// How an attempt ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The labor or its plugin answered with an error.
    Answered {
        /// Which kind.
        code: CallErrorCode,
        /// What it said.
        message: String,
        /// Why the plugin host ended, where it did, or what the call ran: out of memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// The labor is gone, or never got it.
    Lost {
        /// Why.
        cause: Cause,
    },
}

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskFailure {
    /// Its last attempt ended with an error, and no further one is allowed.
    #[error("{code}: {message}")]
    Answered {
        /// Which kind.
        code: CallErrorCode,
        /// What was said.
        message: String,
        /// Why the plugin host ended, where it did, or what the call ran: out of memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// Its labor was lost, and it must not be tried again.
    #[error("the labor was lost before it answered: {cause}; submit it again if it may run twice")]
    Lost {
        /// Why.
        cause: Cause,
    },
    /// No labor took it in time.
    #[error("no labor was free within {waited_ms} ms; start more labors, or allow a longer wait")]
    QueueDeadline {
        /// How long it waited.
        waited_ms: u64,
    },
    /// Somebody did not want it any more.
    #[error("the task was cancelled")]
    Cancelled,
    /// It ends what it runs in, also when it runs alone.
    #[error(
        "quarantined: it ended {hosts} plugin hosts or nodes by itself, the last one: {cause}; mend its method or payload, then submit it anew"
    )]
    Quarantined {
        /// How many it ended while it ran alone.
        hosts: u32,
        /// How the last one ended.
        cause: Cause,
    },
}

impl TaskFailure {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Answered { .. } => "task.answered",
            Self::Lost { .. } => "task.lost",
            Self::QueueDeadline { .. } => "task.queue_deadline",
            Self::Cancelled => "task.cancelled",
            Self::Quarantined { .. } => "task.quarantined",
        }
    }
}

/// What speaks against a task: plugin hosts and nodes that ended while it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Suspicion {
    /// It runs alone next.
    pub alone: bool,
    /// Plugin hosts that it ended while it ran alone.
    pub hosts: u32,
    /// Nodes that crashed while they had it.
    pub nodes: u32,
}

impl Suspicion {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// When a task is tried again. What a task did not do is never charged to it: a lost labor, a
/// drain, a neighbour that took the plugin host with it, a release that was taken back. What a release
/// fails that the fleet is only trying counts when it happens again; that next attempt waits two seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// After its labor or plugin host was lost. False: it is executed at most once.
    pub on_loss: bool,
    /// How often after a failure of its own, in all.
    pub times: u32,
    /// After which of those.
    pub on: BTreeSet<RetryCause>,
}

/// A failure of a task's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryCause {
    /// The plugin answered with an error.
    Error,
    /// The plugin panicked.
    Panic,
    /// It ran longer than its run deadline.
    Deadline,
}

impl Default for Retry {
    /// Only on loss.
    fn default() -> Self {
        Self { on_loss: true, times: 0, on: Self::every() }
    }
}

impl Retry {
    fn every() -> BTreeSet<RetryCause> {
        [RetryCause::Error, RetryCause::Panic, RetryCause::Deadline].into()
    }

    /// Executed at most once, whatever it ran on.
    pub fn never() -> Self {
        Self { on_loss: false, ..Self::default() }
    }

    /// On loss, and so often after any failure of its own.
    pub fn times(times: u32) -> Self {
        Self { times, ..Self::default() }
    }

    /// Only after these failures.
    #[must_use]
    pub fn on(mut self, causes: impl IntoIterator<Item = RetryCause>) -> Self {
        self.on = causes.into_iter().collect();
        self
    }
}

impl TaskRecord {
    /// Where its result is.
    ///
    /// # Errors
    /// [`TaskError::Failed`] where it has none, [`TaskError::Stopped`] where it is not over.
    pub(crate) fn result(&self) -> Result<&Content, TaskError> {
        match &self.state {
            TaskState::Done { result, .. } => Ok(result),
            TaskState::Failed { failure, .. } => Err(failure.clone().into()),
            TaskState::Queued { .. } | TaskState::Running { .. } => Err(Stopped.into()),
        }
    }

    /// One that was taken just now and has an empty payload.
    pub fn new(fleet: FleetName, task: TaskId, method: impl Into<String>, retry: Retry, now_ms: u64) -> Self {
        Self {
            fleet,
            task,
            method: method.into(),
            payload: Content::Store { bytes: 0 },
            key: None,
            retry,
            queue_until_ms: None,
            run_ms: None,
            trace: None,
            submitted_ms: now_ms,
            attempts: 0,
            charged: 0,
            suspicion: Suspicion::default(),
            cancelled: false,
            history: Vec::new(),
            state: TaskState::Queued { not_before_ms: now_ms },
        }
    }

    /// Whether it has its result or will have none.
    pub fn is_over(&self) -> bool {
        matches!(self.state, TaskState::Done { .. } | TaskState::Failed { .. })
    }

    /// Whether an attempt of it may have begun: one that was not given back by its labor.
    pub(crate) fn has_begun(&self) -> bool {
        let given_back = |past: &&PastAttempt| {
            matches!(past.end, AttemptEnd::Answered { code: CallErrorCode::GivenBack, .. })
        };
        self.history.iter().filter(given_back).count() < self.attempts as usize
    }

    /// Whether an attempt was given to that labor, as far as it is remembered.
    pub fn ran_on(&self, which: LaborId) -> bool {
        let now = match &self.state {
            TaskState::Running { labor, .. } | TaskState::Done { labor, .. } => *labor == which,
            TaskState::Queued { .. } | TaskState::Failed { .. } => false,
        };
        now || self.history.iter().any(|past| past.labor == which)
    }

    /// Longest run of one attempt.
    pub fn run(&self) -> Option<Duration> {
        self.run_ms.map(Duration::from_millis)
    }

    /// Adds the end of an attempt.
    pub(crate) fn remember(&mut self, past: PastAttempt) {
        if self.history.len() == HISTORY {
            self.history.remove(0);
        }
        self.history.push(past);
    }
}
