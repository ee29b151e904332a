//! A fleet that runs is brought to the release that its configuration names now.

use std::sync::Arc;

use overseer::{FleetName, UpgradeError, UpgradeOptions};

use super::server::Server;
use super::slot::FleetSlot;
use super::slot::upgrade::Begun;
use crate::config::{Config, Fetch, FleetPlan};
use crate::exit::Exit;
use crate::failure::Failure;

impl Server {
    /// Reads what the configuration names for a fleet now, and begins to change the fleet to that. All
    /// else that is new in the configuration is left for a reload.
    ///
    /// # Errors
    /// `config.…`, `release.…`, `fleet.…`, `upgrade.…`; nothing has changed then.
    pub(crate) async fn upgrade(
        &self,
        slot: &Arc<FleetSlot>,
        options: UpgradeOptions,
    ) -> Result<Begun, Failure> {
        let (path, name) = (self.config_path.clone(), slot.name.clone());
        let plan = tokio::task::spawn_blocking(move || -> Result<Option<FleetPlan>, Failure> {
            let (mut plan, faults) = Config::read(&path)?.plan_what_can_be(Fetch::Now)?;
            if faults.is_empty() {
                plan.remove_unused_downloads();
            }
            match faults.into_iter().find(|(fleet, _)| *fleet == name) {
                Some((_, failure)) => Err(failure),
                None => Ok(plan.fleets.remove(&name)),
            }
        });
        let plan = plan.await.unwrap_or_else(|error| {
            Err(Failure::fault("serve.reload", format!("reading the configuration failed: {error}")))
        })?;
        let plan = plan.ok_or_else(|| {
            let message = format!("the fleet {} is no longer in the configuration", slot.name);
            Failure::input("fleet.unknown", message).help("put it back, or reload: overseer server reload")
        })?;
        slot.upgrade(plan, options).await
    }
}

/// As it is told.
pub(super) fn not_begun(fleet: &FleetName, error: &UpgradeError) -> Failure {
    let exit = match error {
        UpgradeError::Stopped(_) | UpgradeError::Release(_) => Exit::Fault,
        _ => Exit::BadInput,
    };
    let failure = Failure::told(exit, error.code(), &error.to_string());
    match error.code() {
        "upgrade.same_release" => failure.help(
            "replace the file that `release` of the fleet names, or name another one in the configuration",
        ),
        "upgrade.running" => failure.help(format!("follow it: overseer fleet upgrade {fleet} --follow")),
        _ => failure,
    }
}
