//! What the log says of a fleet and its labors: a line for what somebody who looks after them would
//! want to know. Information where it was asked for, a warning where it was not.

use overseer_protocol::{Cause, FleetName, ReleaseId};

use crate::core::{Happening, UpgradeStage, UpgradeStatus, WhatNext};

/// A labor was lost, is replaced, is given up or has ended.
pub(super) fn happened(fleet: &FleetName, happening: &Happening) {
    match happening {
        Happening::Disconnected(life, cause) => {
            tracing::warn!(%fleet, labor = %life.labor, generation = life.generation.0, %cause, "a labor is lost");
        }
        Happening::Terminated(life, cause, WhatNext::Restart { after }) => {
            let (labor, generation, after_ms) = (life.labor, life.generation.0, *after);
            match cause {
                Cause::Asked | Cause::Idle => {
                    tracing::info!(%fleet, %labor, generation, %cause, after_ms, "a labor is replaced");
                }
                cause => tracing::warn!(%fleet, %labor, generation, %cause, after_ms, "a labor is replaced"),
            }
        }
        Happening::Terminated(life, cause, WhatNext::Gone) => {
            let (labor, generation) = (life.labor, life.generation.0);
            match cause {
                Cause::Asked | Cause::Idle => {
                    tracing::info!(%fleet, %labor, generation, %cause, "a labor has ended");
                }
                cause => {
                    tracing::warn!(%fleet, %labor, generation, %cause, "a labor is given up: it is not replaced");
                }
            }
        }
        _ => {}
    }
}

/// The fleet ends, which nobody has asked for.
pub(super) fn stops(fleet: &FleetName, cause: &Cause) {
    tracing::error!(%fleet, %cause, "the fleet ends all its labors and itself; start it again when that is mended");
}

/// A fleet begins to change its release.
pub(super) fn upgrades(fleet: &FleetName, from: Option<ReleaseId>, to: Option<ReleaseId>) {
    let name = |release: Option<ReleaseId>| release.map_or("none".to_owned(), |id| id.short());
    let (from, to) = (name(from), name(to));
    tracing::info!(%fleet, from, to, "the fleet changes its release");
}

/// It has changed it, or has not.
pub(super) fn upgraded(fleet: &FleetName, status: &UpgradeStatus) {
    let labors = status.labors;
    match &status.stage {
        UpgradeStage::RolledBack(cause) => {
            tracing::warn!(%fleet, labors, %cause, "the fleet runs the release before again");
        }
        _ => tracing::info!(%fleet, labors, "the fleet has changed its release"),
    }
}
