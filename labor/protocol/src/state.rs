use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a labor stands, as others see it. Every state has a deadline and a typed cause of
/// leaving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaborState {
    /// Intent stored.
    Requested,
    /// The adapter has accepted.
    Booting,
    /// `Join` was seen.
    Joining,
    /// `Attach` is open.
    Connected,
    /// The release is on its way.
    Loading,
    /// The release is unpacked and verified.
    Loaded,
    /// Plugin handshake and health are done: paired, takes calls.
    Ready,
    /// The stream is gone or heartbeats are missed; grace runs.
    Lost,
    /// Finishes what runs and takes nothing new.
    Draining,
    /// The adapter was asked to end the node and has not confirmed it.
    Terminating,
    /// Dead; the replacement waits for its backoff.
    Backoff,
    /// The adapter has confirmed the end, and no replacement follows.
    Terminated,
}

impl LaborState {
    /// Every state, in order of life.
    pub const ALL: [Self; 12] = [
        Self::Requested,
        Self::Booting,
        Self::Joining,
        Self::Connected,
        Self::Loading,
        Self::Loaded,
        Self::Ready,
        Self::Lost,
        Self::Draining,
        Self::Terminating,
        Self::Backoff,
        Self::Terminated,
    ];

    /// Stable lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Booting => "booting",
            Self::Joining => "joining",
            Self::Connected => "connected",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Ready => "ready",
            Self::Lost => "lost",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
            Self::Backoff => "backoff",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for LaborState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
