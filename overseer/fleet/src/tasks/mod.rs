//! Durable tasks: a request with an id, stored, that outlives server and caller and can be
//! attached to again.

mod record;

pub use record::{
    AttemptEnd, Content, HISTORY, IdempotencyKey, PastAttempt, Retry, RetryCause, Suspicion, TaskFailure,
    TaskRecord, TaskState,
};
