//! Why a fleet does not do what it is asked.

use super::RecoveryError;
use crate::condition::{Part, Trouble};
use crate::core::AtCapacity;

/// The fleet has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fleet has stopped; start a new one")]
pub struct Stopped;

impl Stopped {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "fleet.stopped"
    }
}

/// Casts to the user's own state that may wait; more are refused.
pub const WAITING_CASTS: usize = 65_536;

/// Why the user's own state was not cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CastStateError {
    /// The callbacks are behind by as much as they may be.
    #[error(
        "{WAITING_CASTS} casts to the state of the callbacks wait already; wait for some with call_state"
    )]
    Full,
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl CastStateError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full => "fleet.casts_full",
            Self::Stopped(error) => error.code(),
        }
    }
}

/// Why no child was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartChildError {
    /// Every slot is taken.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// The disk is full or read-only, or no file descriptor is free.
    #[error("no labor can be started now, for {0}; {help}", help = .0.help())]
    Paused(Box<Trouble>),
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl StartChildError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AtCapacity(error) => error.code(),
            Self::Paused(trouble) if trouble.part == Part::Files => "control_plane.no_files",
            Self::Paused(_) => "store.not_writable",
            Self::Stopped(error) => error.code(),
        }
    }
}

/// Why a fleet could not be held against what there is.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Records or inventory cannot be read.
    #[error(transparent)]
    Inventory(#[from] RecoveryError),
    /// The fleet has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl ReconcileError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Inventory(error) => error.code(),
            Self::Stopped(error) => error.code(),
        }
    }
}
