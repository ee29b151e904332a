use std::time::Duration;

use overseer_protocol::{BootPhase, Cause, Generation, LaborId, LaborState, ReleaseId, SessionId};

use super::{Deadlines, Life, Millis};

/// What one labor is doing. The data of a state lives in the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Requested,
    Booting,
    Joining,
    Loading {
        session: SessionId,
    },
    Loaded {
        session: SessionId,
    },
    Ready {
        session: SessionId,
    },
    /// The session is gone; grace runs. `before` is taken up again on a new session.
    Lost {
        cause: Cause,
    },
    /// Calls finish; then the labor ends for `cause`.
    Draining {
        session: SessionId,
        cause: Cause,
    },
    /// The agent was asked to leave by itself for `cause`.
    Stopping {
        cause: Cause,
    },
    /// The adapter was asked to end the node, which ends for `cause`.
    Terminating {
        cause: Cause,
        tries: u32,
    },
    /// Dead; the next life begins at the deadline.
    Backoff,
}

/// One labor of the fleet.
#[derive(Debug, Clone)]
pub(super) struct Labor {
    pub(super) id: LaborId,
    pub(super) generation: Generation,
    pub(super) phase: Phase,
    /// When the phase has lasted too long.
    pub(super) deadline: Option<Millis>,
    /// When its release must run, however often it attaches anew meanwhile.
    pub(super) load_by: Option<Millis>,
    /// When the last word of the agent came.
    pub(super) heard: Millis,
    /// No node of this life lives on after this: its lease has run out.
    pub(super) lease_end: Millis,
    /// What it is to run; none: it is to be empty.
    pub(super) target: Option<ReleaseId>,
    /// What it runs while it is ready.
    pub(super) runs: Option<ReleaseId>,
    /// Starts in a row that never became ready.
    pub(super) failures: u32,
    /// Somebody wants it gone: nothing follows this life.
    pub(super) unwanted: bool,
    /// It is on a machine of somebody else's, which may join for so long: no adapter knows it.
    pub(super) invited: Option<Duration>,
    /// How often it came back after it was asked to leave.
    pub(super) asked: u32,
}

impl Labor {
    /// One that has just begun.
    pub(super) fn new(life: Life, phase: Phase, now: Millis) -> Self {
        Self {
            id: life.labor,
            generation: life.generation,
            phase,
            deadline: None,
            load_by: None,
            heard: now,
            lease_end: now,
            target: None,
            runs: None,
            failures: 0,
            unwanted: false,
            invited: None,
            asked: 0,
        }
    }

    pub(super) fn is_invited(&self) -> bool {
        self.invited.is_some()
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    pub(super) fn life(&self) -> Life {
        Life { labor: self.id, generation: self.generation }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Loading { session }
            | Phase::Loaded { session }
            | Phase::Ready { session }
            | Phase::Draining { session, .. } => Some(session),
            _ => None,
        }
    }

    /// As others see it.
    pub(super) fn state(&self) -> LaborState {
        match self.phase {
            Phase::Requested => LaborState::Requested,
            Phase::Booting => LaborState::Booting,
            Phase::Joining => LaborState::Joining,
            Phase::Loading { .. } => LaborState::Loading,
            Phase::Loaded { .. } => LaborState::Loaded,
            Phase::Ready { .. } => LaborState::Ready,
            Phase::Lost { .. } => LaborState::Lost,
            Phase::Draining { .. } => LaborState::Draining,
            Phase::Stopping { .. } | Phase::Terminating { .. } => LaborState::Terminating,
            Phase::Backoff => LaborState::Backoff,
        }
    }

    /// Which step of the start this phase is, and how long it may last.
    pub(super) fn boot_step(&self, deadlines: &Deadlines) -> Option<(BootPhase, Duration)> {
        match self.phase {
            Phase::Requested => Some((BootPhase::Provision, deadlines.provision)),
            Phase::Booting => Some((BootPhase::Boot, self.invited.unwrap_or(deadlines.boot))),
            Phase::Joining => Some((BootPhase::Join, deadlines.join)),
            Phase::Loading { .. } => Some((BootPhase::Load, deadlines.load)),
            Phase::Loaded { .. } => Some((BootPhase::Start, deadlines.start)),
            _ => None,
        }
    }
}
