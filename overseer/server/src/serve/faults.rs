//! Fleets that could not be started, and why: the others are served all the same.

use std::collections::BTreeMap;
use std::time::SystemTime;

use overseer::FleetName;
use parking_lot::RwLock;

use crate::config::FETCHING;
use crate::failure::Failure;

/// What keeps a fleet from being served.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) fleet: FleetName,
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) help: String,
    pub(crate) since: SystemTime,
}

/// Of each fleet the last one.
#[derive(Debug, Default)]
pub(crate) struct Faults(RwLock<BTreeMap<FleetName, Fault>>);

impl Faults {
    /// It could not be started, and is tried again when it is asked for.
    pub(super) fn note(&self, fleet: &FleetName, failure: &Failure) {
        let is_fetched = failure.code == FETCHING;
        match is_fetched {
            true => tracing::info!(%fleet, %failure, "a fleet is served in a while"),
            false => tracing::error!(%fleet, %failure, "a fleet is not served"),
        }
        let again = format!("then run `overseer reload`, or `overseer fleet start {fleet}`");
        let help = match &failure.help {
            Some(help) if is_fetched || help.contains("overseer fleet start") => help.clone(),
            Some(help) => format!("{help}; {again}"),
            None => format!("put that right, {again}"),
        };
        let fault = Fault {
            fleet: fleet.clone(),
            code: failure.code.to_string(),
            reason: failure.to_string(),
            help,
            since: overseer::clock::now(),
        };
        self.0.write().insert(fleet.clone(), fault);
    }

    /// It has started, or is not wanted any more.
    pub(crate) fn clear(&self, fleet: &FleetName) {
        self.0.write().remove(fleet);
    }

    /// What is still wrong is noted again.
    pub(super) fn clear_all(&self) {
        self.0.write().clear();
    }

    /// Of one fleet.
    pub(crate) fn of(&self, fleet: &FleetName) -> Option<Fault> {
        self.0.read().get(fleet).cloned()
    }

    /// All, by name.
    pub(crate) fn all(&self) -> Vec<Fault> {
        self.0.read().values().cloned().collect()
    }
}
