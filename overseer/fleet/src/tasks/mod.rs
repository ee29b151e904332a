//! Durable tasks: a request with an id, stored, that outlives server and caller and can be
//! attached to again.

mod actor;
mod at_work;
mod handle;
mod keys;
mod options;
mod record;
mod retention;
#[cfg(test)]
mod speed;
mod storage;
mod task;
mod writer;

use overseer_protocol::TaskId;

pub(crate) use self::handle::Tasks;
pub(crate) use self::keys::*;
pub use self::options::{KEY_BYTES, TaskOptions};
pub use self::record::{
    AttemptEnd, Content, HISTORY, IdempotencyKey, PastAttempt, Retry, RetryCause, Suspicion, TaskFailure,
    TaskRecord, TaskState,
};
#[cfg(test)]
pub(crate) use self::storage::{Change, Submitted};
pub(crate) use self::storage::{TaskStorage, parse};
pub use self::task::Task;
use crate::blobs::BlobError;
use crate::fleet::Stopped;
use crate::store::StoreError;

/// Tasks of one fleet that may be at work at a time; more are refused.
pub const MAX_TASKS: usize = 100_000;
/// Bytes of their payloads that may be held in memory at a time; more are refused.
pub const MAX_TASK_BYTES: usize = 256 << 20;

/// Why a task was not taken. Nothing is stored then, but for what [`StoreError::Uncertain`] says.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many as may be are at work.
    #[error(
        "the fleet has {tasks} tasks with {bytes} bytes of payload at work; wait for some to end, or start more labors"
    )]
    Full {
        /// Tasks.
        tasks: usize,
        /// Bytes of payload.
        bytes: usize,
    },
    /// Over the limit.
    #[error("a payload of {size} bytes is over the limit of {limit}; pass it as a blob")]
    TooLarge {
        /// Bytes.
        size: usize,
        /// Most bytes.
        limit: usize,
    },
    /// Not an idempotency key.
    #[error("{0:?} is no idempotency key; use 1 to {KEY_BYTES} printable characters without a space")]
    BadKey(String),
    /// The key names another task.
    #[error(
        "the key {key:?} names task {task}, which was given with another method or payload; use another key"
    )]
    KeyConflict {
        /// The key.
        key: String,
        /// What it names.
        task: TaskId,
    },
    /// The task of that key has just been removed, for its time was over.
    #[error("the task of the key {0:?} has just been removed; submit it again")]
    KeyGone(String),
    /// The id that was drawn is taken.
    #[error("the id {0} is taken; submit it again")]
    IdTaken(TaskId),
    /// The argument is not of the expected form.
    #[error("the argument cannot be coded: {0}")]
    Codec(String),
    /// What is stored cannot be read.
    #[error(
        "`{key}` in the store cannot be read: {reason}; restore the store from an export, or remove the key"
    )]
    Unreadable {
        /// The key.
        key: String,
        /// What was found.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs, where its payload is large.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl SubmitError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "task.full",
            Self::TooLarge { .. } => "task.too_large",
            Self::BadKey(_) => "task.bad_key",
            Self::KeyConflict { .. } => "task.key_conflict",
            Self::KeyGone(_) => "task.key_gone",
            Self::IdTaken(_) => "task.id_taken",
            Self::Codec(_) => "task.codec",
            Self::Unreadable { .. } => "task.unreadable",
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
            Self::Stopped(error) => error.code(),
        }
    }
}

/// Why a task could not be asked for its result, or has none.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It has none and is not tried again.
    #[error(transparent)]
    Failed(#[from] TaskFailure),
    /// There is no such task.
    #[error("there is no task {0}; it was never submitted here, or its time was over and it was removed")]
    Unknown(TaskId),
    /// The result is not of the expected form.
    #[error("the result cannot be coded: {0}")]
    Codec(String),
    /// The result cannot be read.
    #[error("the result cannot be read: {0}")]
    Result(String),
    /// What is stored cannot be read.
    #[error(
        "`{key}` in the store cannot be read: {reason}; restore the store from an export, or remove the key"
    )]
    Unreadable {
        /// The key.
        key: String,
        /// What was found.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs, where its result is large.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The fleet has stopped; the task is as it was, for the one that comes after it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl TaskError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Failed(failure) => failure.code(),
            Self::Unknown(_) => "task.unknown",
            Self::Codec(_) => "task.codec",
            Self::Result(_) => "task.result",
            Self::Unreadable { .. } => "task.unreadable",
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
            Self::Stopped(error) => error.code(),
        }
    }
}
