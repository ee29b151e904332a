use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a call gave no result, as a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum CallErrorCode {
    /// The plugin answered with an error of its own.
    Failed = 1,
    /// The plugin has no such method.
    NoMethod = 2,
    /// The payload is not what the method takes.
    BadPayload = 3,
    /// The plugin panicked in this call.
    Panicked = 4,
    /// The plugin host ended while the call ran.
    HostEnded = 5,
    /// The call waited longer than its queue deadline.
    QueueDeadline = 6,
    /// The call ran longer than its run deadline.
    RunDeadline = 7,
    /// The call was cancelled.
    Cancelled = 8,
    /// Too many calls wait already.
    Overloaded = 9,
    /// No release is ready on the labor.
    NotReady = 10,
    /// Payload or result is over the limit.
    TooLarge = 11,
    /// The labor drains and takes nothing new.
    Draining = 12,
    /// A fault of the agent itself, such as a full disk.
    Agent = 13,
    /// The attempt was given back before it began, for another labor may have room for it.
    GivenBack = 14,
}

impl CallErrorCode {
    /// From the wire; an unknown code is `Agent`.
    pub fn from_wire(code: u32) -> Self {
        use CallErrorCode::*;
        [
            Failed,
            NoMethod,
            BadPayload,
            Panicked,
            HostEnded,
            QueueDeadline,
            RunDeadline,
            Cancelled,
            Overloaded,
            NotReady,
            TooLarge,
            Draining,
            GivenBack,
        ]
        .into_iter()
        .find(|c| *c as u32 == code)
        .unwrap_or(Agent)
    }

    /// Whether another release might have answered otherwise: it is no failure of the caller, nor of the
    /// labor.
    pub fn is_of_release(self) -> bool {
        use CallErrorCode::*;
        matches!(self, Failed | NoMethod | BadPayload | Panicked | HostEnded | RunDeadline)
    }
}

impl fmt::Display for CallErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "failed",
            Self::NoMethod => "no such method",
            Self::BadPayload => "bad payload",
            Self::Panicked => "panicked",
            Self::HostEnded => "plugin host ended",
            Self::QueueDeadline => "waited too long",
            Self::RunDeadline => "ran too long",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::NotReady => "not ready",
            Self::TooLarge => "too large",
            Self::Draining => "draining",
            Self::Agent => "agent fault",
            Self::GivenBack => "given back",
        })
    }
}
