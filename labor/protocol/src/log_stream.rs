use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Attempt, TaskId};

/// Names a sequence of bytes that a task writes. A byte in it is addressed by its offset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogStream {
    /// Whose output it is.
    pub task: TaskId,
    /// Of which try.
    pub attempt: Attempt,
    /// `stdout`, `stderr` or a name of the plugin's, up to 64 bytes.
    pub stream: String,
}

impl LogStream {
    /// Longest stream name, in bytes.
    pub const MAX_NAME: usize = 64;

    /// Whether the name may be used: 1 to 64 of `a-z A-Z 0-9 . _ -`, not starting with a dot.
    pub fn good_name(name: &str) -> bool {
        !name.is_empty()
            && name.len() <= Self::MAX_NAME
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.task, self.attempt.0, self.stream)
    }
}
