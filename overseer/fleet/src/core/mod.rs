//! What decides, without any IO: events in, effects out. Time and randomness are injected, so
//! a year of a fleet can be replayed within a second.

mod fleet;
mod labor;
mod random;
mod reconcile;
mod restart;
mod rollout;
mod tasks;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod upgrades;

pub use fleet::{AtCapacity, FleetCore, NoUpgrade};
pub use random::Random;
pub use reconcile::{Care, Finding, Inventory, Pass, Reconciler};
pub use restart::{Backoff, Escalation, Restart};
pub use rollout::{Tally, UpgradeOptions, UpgradeStage, UpgradeStatus};
pub use tasks::{TaskCore, TaskCount, TaskEffect, TaskEvent, Trust};

use std::time::Duration;

use overseer_protocol::{Cause, Generation, LaborId, LaborState, ReleaseId, SessionId};

/// Milliseconds of a clock that never goes back; its zero means nothing.
pub type Millis = u64;

/// One life of one labor in this fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Life {
    /// The labor.
    pub labor: LaborId,
    /// Its life.
    pub generation: Generation,
}

/// How a fleet is run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Most labors at a time; a labor takes its slot until its end is confirmed.
    pub max_nodes: usize,
    /// When a labor that ended is replaced.
    pub restart: Restart,
    /// More than this many restarts within `period` escalate.
    pub intensity: u32,
    /// See `intensity`.
    pub period: Duration,
    /// What escalation does after the callback was told.
    pub escalation: Escalation,
    /// Delay before a replacement.
    pub backoff: Backoff,
    /// How long a labor that went silent may stay away before it is given up.
    pub grace: Duration,
    /// How often an agent says that it lives.
    pub heartbeat: Duration,
    /// Silence after which a labor is lost.
    pub silence: Duration,
    /// How long an agent lives without word from the Overseer.
    pub lease: Duration,
    /// When the tasks of a labor that went silent are given to others.
    pub requeue: Requeue,
    /// How long agent and plugin host stay awake for the next call after a short one.
    pub spin: Duration,
    /// How often the fleet is held against what its adapter has.
    pub reconcile: Duration,
    /// How long a stored task is kept after it is over.
    pub task_retention: Duration,
    /// Longest time in each state.
    pub deadlines: Deadlines,
}

/// When the stored tasks of a labor that went silent are given to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Requeue {
    /// When it has been given up: they run once unless it is really gone.
    #[default]
    AfterGrace,
    /// At once: sooner, but an attempt may still run on the labor while the next one does.
    AtLoss,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_nodes: 64,
            restart: Restart::Permanent,
            intensity: 10,
            period: Duration::from_secs(60),
            escalation: Escalation::GiveUpLabor,
            backoff: Backoff::default(),
            grace: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            lease: Duration::from_secs(30),
            requeue: Requeue::default(),
            spin: Duration::ZERO,
            reconcile: Duration::from_secs(60),
            task_retention: Duration::from_secs(7 * 86_400),
            deadlines: Deadlines::default(),
        }
    }
}

/// Longest time in each state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the adapter has answered.
    pub provision: Duration,
    /// From there until the node joins.
    pub boot: Duration,
    /// From there until it attaches.
    pub join: Duration,
    /// From there until the release is unpacked and verified.
    pub load: Duration,
    /// From there until the plugin is ready.
    pub start: Duration,
    /// For finishing calls when drained.
    pub drain: Duration,
    /// For the agent to stop its plugin and leave by itself.
    pub stop: Duration,
    /// Until the adapter is asked again to end a node.
    pub terminate: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            provision: Duration::from_secs(60),
            boot: Duration::from_secs(60),
            join: Duration::from_secs(30),
            load: Duration::from_secs(120),
            start: Duration::from_secs(30),
            drain: Duration::from_secs(60),
            stop: Duration::from_secs(5),
            terminate: Duration::from_secs(5),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A child was asked for; admitted by [`FleetCore::admit`].
    Start(LaborId),
    /// A machine of somebody else's may join within that time; admitted by [`FleetCore::admit`].
    Invite {
        /// As whom.
        id: LaborId,
        /// For how long the invitation is good.
        ttl: Duration,
    },
    /// The server before this one had it.
    Adopted {
        /// Its last life.
        life: Life,
        /// How that one was found.
        found: Found,
        /// Nothing follows that life.
        unwanted: bool,
        /// Its machine was invited; for so long it may still join.
        invited: Option<Duration>,
    },
    /// The adapter has accepted.
    Accepted(Life),
    /// Intent not stored or adapter refused.
    Refused {
        /// Whose.
        life: Life,
        /// Why.
        cause: Cause,
        /// Whether another try may do.
        retryable: bool,
    },
    /// A claim was admitted.
    Joined(Life),
    /// A control stream is open.
    Attached {
        /// Whose.
        life: Life,
        /// The new session.
        session: SessionId,
        /// A release runs and may be called.
        ready: bool,
        /// Which.
        release: Option<ReleaseId>,
        /// It was asked to drain before: it takes nothing new.
        draining: bool,
    },
    /// A release is unpacked and verified.
    Loaded(Life, Option<ReleaseId>),
    /// A release is up; none: the labor is empty.
    Ready(Life, Option<ReleaseId>),
    /// A release could not be loaded or started.
    NotLoaded(Life, Option<ReleaseId>, Cause),
    /// The plugin host of a release has ended by itself.
    HostEnded(Life, Option<ReleaseId>, Cause),
    /// Its plugin host was given up.
    Failed(Life, Cause),
    /// What the new release of an upgrade and the one before have answered since it began.
    Answers {
        /// The new one.
        new: Tally,
        /// The one before.
        before: Tally,
        /// With what the new one failed last.
        error: Option<String>,
    },
    /// A heartbeat came.
    Heard(Life),
    /// That session's stream is gone.
    Detached(Life, SessionId),
    /// The node has ended: seen by the adapter.
    Ended(Life, Cause),
    /// Its agent has stopped what ran, and ends.
    Left(Life, Cause),
    /// The machine will go.
    Going(Life, Cause),
    /// Finish what runs, then end.
    Drain(LaborId),
    /// Nothing runs any more.
    Drained(Life),
    /// End it.
    Terminate(LaborId, Cause),
    /// The adapter could not end it; it will be asked again.
    TerminateFailed(Life),
    /// Whether nothing can be started, for the disk is full or no file descriptor is free. No node can
    /// come or join then, which is no fault of its own: those on their way are given their time again.
    Paused(bool),
    /// A deadline may have passed.
    Tick,
}

/// How a labor of the server before this one was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its node is there and has not been paired yet.
    Booting,
    /// Its node is there and had a session: it dials again by itself.
    Running,
    /// Its node is there, or may be, and is to end for this cause.
    Ending(Cause),
    /// It waits for its next life.
    Waiting,
}

impl Found {
    /// What the record of a labor and the inventory of its adapter say together.
    pub fn of(state: LaborState, cause: Option<&Cause>, there: bool) -> Self {
        match state {
            LaborState::Backoff => Self::Waiting,
            LaborState::Draining | LaborState::Terminating | LaborState::Terminated => {
                Self::Ending(cause.cloned().unwrap_or(Cause::OwnerLost))
            }
            LaborState::Requested | LaborState::Booting if there => Self::Booting,
            _ if there => Self::Running,
            // It was never made, or has ended since: its adapter confirms that.
            _ => Self::Ending(Cause::OwnerLost),
        }
    }
}

/// What is to be done. The shell does it and feeds the outcome back as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Store the intent with a new claim, then ask the adapter.
    Provision(Life),
    /// Ask the adapter to end the node; `Ended` or `TerminateFailed` follows.
    Terminate(Life),
    /// Tell the agent what to run; none: nothing.
    Load(Life, SessionId, Option<ReleaseId>),
    /// A ready labor has changed its release: how much it takes at once may have changed.
    Changed(Life, SessionId),
    /// An upgrade has begun, or has come to another stage.
    Upgrading(UpgradeStatus),
    /// An upgrade is over.
    Upgraded(UpgradeStatus),
    /// Ask the agent to finish its calls.
    SendDrain(Life, SessionId),
    /// Ask the agent to stop its plugin and to leave.
    SendShutdown(Life, SessionId, Cause),
    /// Close the session if it is open and fail its calls; calls to come fail too.
    CloseSession(Life, Option<SessionId>),
    /// Calls may go to this session.
    OpenForCalls(Life, SessionId),
    /// No new calls for this labor.
    CloseForCalls(Life),
    /// The labor is in this state now.
    State(Life, LaborState, Option<Cause>),
    /// Tell the callback.
    Tell(Happening),
    /// The fleet has begun to end, which nobody has asked for.
    Stops(Cause),
    /// The labor's slot is free; remove its record.
    Forget(LaborId),
}

impl Effect {
    /// What it means to the fleet's stored tasks. `places`: how many a session takes at once.
    pub fn for_tasks(&self, requeue: Requeue, places: impl Fn(SessionId) -> usize) -> Option<TaskEvent> {
        match self {
            Self::OpenForCalls(life, session) | Self::Changed(life, session) => {
                Some(TaskEvent::Opened { life: *life, session: *session, places: places(*session) })
            }
            Self::CloseForCalls(life) => Some(TaskEvent::Closed(*life)),
            Self::State(life, LaborState::Lost, cause) if requeue == Requeue::AtLoss => {
                let cause = cause.clone().unwrap_or(Cause::ConnectionLost);
                Some(TaskEvent::Gone(*life, cause))
            }
            Self::Tell(Happening::Terminated(life, cause, _)) => Some(TaskEvent::Gone(*life, cause.clone())),
            _ => None,
        }
    }
}

/// What the user's callbacks are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// `handle_connected`
    Connected(Life),
    /// `handle_loaded`
    Loaded(Life),
    /// `handle_paired`
    Paired(Life),
    /// `handle_disconnected`
    Disconnected(Life, Cause),
    /// `handle_terminated`: this life is over; whether another follows.
    Terminated(Life, Cause, WhatNext),
    /// `handle_event`: the provider takes the machine back.
    Going(Life, Cause),
    /// `handle_event`: more restarts than the fleet allows.
    Escalated(Life, Cause),
}

/// What follows the end of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhatNext {
    /// A replacement after so many milliseconds.
    Restart {
        /// The delay.
        after: Millis,
    },
    /// Nothing: the labor is gone for good.
    Gone,
}
