use std::time::Duration;

use overseer_protocol::TraceContext;

use super::SubmitError;
use super::record::Retry;

/// Most bytes of an idempotency key.
pub const KEY_BYTES: usize = 128;

/// How a task is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskOptions {
    /// The client's own name of it. Submitting twice under one key gives one task, for as long as
    /// that is kept.
    pub key: Option<String>,
    /// When it is tried again. Default: on loss.
    pub retry: Retry,
    /// Longest wait for its first attempt; none: for ever.
    pub queue: Option<Duration>,
    /// Longest run of one attempt; none: for ever.
    pub run: Option<Duration>,
    /// The span that its attempts are children of, where somebody traces it.
    pub trace: Option<TraceContext>,
}

impl TaskOptions {
    /// With this idempotency key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Tried again by this rule.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// With this queue deadline, or none.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Option<Duration>>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Traced as a child of this span, or not.
    #[must_use]
    pub fn trace(mut self, trace: impl Into<Option<TraceContext>>) -> Self {
        self.trace = trace.into();
        self
    }

    /// With this run deadline, or none.
    #[must_use]
    pub fn run(mut self, run: impl Into<Option<Duration>>) -> Self {
        self.run = run.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), SubmitError> {
        let good = |key: &str| {
            !key.is_empty() && key.len() <= KEY_BYTES && !key.chars().any(|c| c.is_control() || c == ' ')
        };
        match &self.key {
            Some(key) if !good(key) => Err(SubmitError::BadKey(key.chars().take(64).collect())),
            _ => Ok(()),
        }
    }
}
