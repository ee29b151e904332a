//! The log streams of what a host writes outside of calls.

use overseer_protocol::{Attempt, LogStream, TaskId};

use crate::calls::HostNumber;

/// In one life of a host.
const MAX_STREAMS: usize = 64;

/// The log streams of one life of a host.
pub(super) struct HostStreams {
    number: HostNumber,
    /// Whose they are; none before the labor has an identity.
    task: Option<TaskId>,
    names: Vec<String>,
}

impl HostStreams {
    pub(super) fn new(number: HostNumber, task: Option<TaskId>) -> Self {
        Self { number, task, names: Vec::new() }
    }

    pub(super) fn number(&self) -> HostNumber {
        self.number
    }

    /// The one of this name; none when there are too many.
    pub(super) fn open(&mut self, name: String) -> Option<LogStream> {
        if !self.names.contains(&name) {
            if self.names.len() >= MAX_STREAMS {
                return None;
            }
            self.names.push(name.clone());
        }
        Some(LogStream { task: self.task?, attempt: Attempt(self.number), stream: name })
    }

    /// All that were opened.
    pub(super) fn all(&self) -> impl Iterator<Item = LogStream> {
        let attempt = Attempt(self.number);
        let named = move |task: TaskId, name: &String| LogStream { task, attempt, stream: name.clone() };
        self.names.iter().filter_map(move |name| Some(named(self.task?, name)))
    }
}
