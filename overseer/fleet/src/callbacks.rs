//! The user's part: a state and what it does when something happens.

use std::future::Future;

use overseer_plugin::record::Record;
use overseer_protocol::{Cause, Facts, ReleaseId};

use crate::core::{UpgradeStatus, WhatNext};
use crate::fleet::Fleet;
use crate::labor::Labor;

/// Any error of the user's own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What `handle_event` is told.
#[derive(Debug, Clone, PartialEq)]
pub enum FleetEvent {
    /// The machine of a labor will go; the labor drains.
    Going {
        /// Which.
        labor: Labor,
        /// Why.
        cause: Cause,
    },
    /// Labors ended faster than the fleet's intensity allows; what follows is its `escalation`.
    Escalated {
        /// The last one that ended; it is not replaced.
        labor: Labor,
        /// Why it ended.
        cause: Cause,
    },
    /// A plugin host of a labor ended, and what the agent does about it.
    PluginHost {
        /// Which.
        labor: Labor,
        /// `started`, `exited`, `restarting`, `gave_up`; or `retired`: one of an older release has ended.
        what: String,
        /// Why, where it ended.
        cause: Option<Cause>,
    },
    /// An [upgrade](crate::FleetHandle::upgrade) has begun, or has come to another stage.
    Upgrading {
        /// How far it is.
        status: UpgradeStatus,
    },
    /// An [upgrade](crate::FleetHandle::upgrade) is over.
    Upgraded {
        /// Its end.
        status: UpgradeStatus,
    },
    /// Callbacks came faster than they were taken; so many of the oldest were dropped since the last
    /// time this was said. [`FleetHandle::which_children`](crate::FleetHandle::which_children)
    /// says what there is now.
    CallbacksDropped {
        /// How many.
        callbacks: u64,
    },
    /// Telemetry came faster than `handle_telemetry` took it; so many records were dropped for
    /// this callback since the last time this was said.
    TelemetryDropped {
        /// How many.
        records: u64,
    },
}

/// The callbacks of a fleet and their state, which is `Self`. They run one at a time, in order,
/// in an actor of their own: a slow one delays only the next. Every one has an empty default.
pub trait Overseer: Sized + Send + 'static {
    /// Before anything else. An error stops the fleet.
    fn init(&mut self, fleet: &Fleet<Self>) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = fleet;
        async { Ok(()) }
    }

    /// An agent has attached, for the first time or again.
    fn handle_connected(
        &mut self,
        fleet: &Fleet<Self>,
        labor: &Labor,
        facts: &Facts,
    ) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor, facts);
        async {}
    }

    /// The release is unpacked and verified on the labor.
    fn handle_loaded(
        &mut self,
        fleet: &Fleet<Self>,
        labor: &Labor,
        release: &ReleaseId,
    ) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor, release);
        async {}
    }

    /// The plugin is up: the labor takes calls.
    fn handle_paired(&mut self, fleet: &Fleet<Self>, labor: &Labor) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor);
        async {}
    }

    /// The labor said something by itself.
    fn handle_telemetry(
        &mut self,
        fleet: &Fleet<Self>,
        labor: &Labor,
        record: &Record<'_>,
    ) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor, record);
        async {}
    }

    /// The labor went silent; grace runs.
    fn handle_disconnected(
        &mut self,
        fleet: &Fleet<Self>,
        labor: &Labor,
        cause: &Cause,
    ) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor, cause);
        async {}
    }

    /// A life of the labor is over; `next` says whether another follows.
    fn handle_terminated(
        &mut self,
        fleet: &Fleet<Self>,
        labor: &Labor,
        cause: &Cause,
        next: WhatNext,
    ) -> impl Future<Output = ()> + Send {
        let _ = (fleet, labor, cause, next);
        async {}
    }

    /// Something else happened.
    fn handle_event(&mut self, fleet: &Fleet<Self>, event: &FleetEvent) -> impl Future<Output = ()> + Send {
        let _ = (fleet, event);
        async {}
    }
}

/// No callbacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Overseer for Quiet {}
