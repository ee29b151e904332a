//! Tasks, as JSON.

use serde::Serialize;

use crate::api::proto::{self, TaskState};
use crate::client::fleet::{CauseDocument, cause};

/// A task. Times are milliseconds since the epoch.
#[derive(Debug, Serialize)]
pub(super) struct TaskDocument {
    pub(super) task: String,
    pub(super) fleet: String,
    pub(super) method: String,
    pub(super) state: &'static str,
    pub(super) since_ms: u64,
    pub(super) attempts: u32,
    charged: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) labor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    pub(super) retry: RetryDocument,
    pub(super) submitted_ms: u64,
    pub(super) payload_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) cancelled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<CauseDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) past: Vec<PastDocument>,
}

#[derive(Debug, Serialize)]
pub(super) struct RetryDocument {
    pub(super) on_loss: bool,
    pub(super) times: u32,
    pub(super) on: Vec<String>,
}

/// An attempt that gave no result.
#[derive(Debug, Serialize)]
pub(super) struct PastDocument {
    pub(super) attempt: u32,
    pub(super) labor: String,
    generation: u32,
    since_ms: u64,
    pub(super) ended_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<CauseDocument>,
}

impl From<proto::Task> for TaskDocument {
    fn from(task: proto::Task) -> Self {
        let state = match task.state() {
            TaskState::Queued => "queued",
            TaskState::Running => "running",
            TaskState::Done => "done",
            TaskState::Failed => "failed",
            TaskState::Unspecified => "unknown",
        };
        let proto::TaskRetry { on_loss, times, on } = task.retry.unwrap_or_default();
        Self {
            task: task.id,
            fleet: task.fleet,
            method: task.method,
            state,
            since_ms: task.since_ms,
            attempts: task.attempts,
            charged: task.charged,
            labor: task.labor,
            key: task.key,
            retry: RetryDocument { on_loss, times, on },
            submitted_ms: task.submitted_ms,
            payload_bytes: task.payload_bytes,
            result_bytes: task.result_bytes,
            queue_until_ms: task.queue_until_ms,
            run_ms: task.run_ms,
            cancelled: task.cancelled,
            failure: task.failure.map(cause),
            past: task.past.into_iter().map(PastDocument::from).collect(),
        }
    }
}

impl From<proto::PastAttempt> for PastDocument {
    fn from(past: proto::PastAttempt) -> Self {
        Self {
            attempt: past.attempt,
            labor: past.labor,
            generation: past.generation,
            since_ms: past.since_ms,
            ended_ms: past.ended_ms,
            end: past.end.map(cause),
        }
    }
}
