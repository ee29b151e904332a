//! What a fleet went through, as those are told who follow it.

use overseer_protocol::{Cause, Generation, LaborId, LaborState};
use serde::Serialize;

use crate::core::UpgradeStatus;

/// One line of a labor's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// The labor.
    pub labor: LaborId,
    /// Its life.
    pub generation: Generation,
    /// The state that it entered.
    pub state: LaborState,
    /// Why.
    pub cause: Option<Cause>,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}

/// An upgrade that has begun, has come to another stage, or is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpgradeEntry {
    /// As it stood then.
    #[serde(flatten)]
    pub status: UpgradeStatus,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
}

/// One thing that happened in a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetEntry {
    /// To one of its labors.
    Labor(HistoryEntry),
    /// To all of it.
    Upgrade(UpgradeEntry),
}

impl FleetEntry {
    /// What it says of a labor, if it is about one.
    pub fn of_labor(&self) -> Option<&HistoryEntry> {
        match self {
            Self::Labor(entry) => Some(entry),
            Self::Upgrade(_) => None,
        }
    }
}
