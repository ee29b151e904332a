//! A fleet that changes its release, and what is remembered of it.

use std::sync::Arc;
use std::time::Duration;

use overseer::core::NoUpgrade;
use overseer::{Cause, Fleet, ReleaseId, UpgradeOptions, UpgradeStage, Upgrading};

use super::{FleetSlot, Inner, Phase};
use crate::config::FleetPlan;
use crate::failure::Failure;
use crate::serve::taken_back::TakenBack;
use crate::serve::upgrade::not_begun;

/// Until a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// An upgrade that has begun.
pub(crate) struct Begun {
    pub(crate) upgrading: Upgrading,
    /// What may not be meant.
    pub(crate) warnings: Vec<String>,
}

impl FleetSlot {
    /// Begins to change the release to that of a plan. When that is done the fleet counts as started
    /// with it.
    ///
    /// # Errors
    /// `fleet.not_running`, `fleet.changing`, `upgrade.…`, `release.…`, `store.…`.
    pub(in crate::serve) async fn upgrade(
        self: &Arc<Self>,
        plan: FleetPlan,
        options: UpgradeOptions,
    ) -> Result<Begun, Failure> {
        let _turn = self.turn.lock().await;
        let fleet = self.fleet()?;
        // Nobody else begins one: it has the turn.
        if let Some(no) = refused(&fleet, plan.release.id()) {
            return Err(not_begun(&self.name, &no.into()));
        }
        let known = self.inner.read().taken_back.clone();
        let mut warnings = Vec::new();
        if let Some(before) = fleet.release() {
            let [was, is] = [&before, &plan.release].map(|release| &release.manifest().name);
            if was != is {
                warnings.push(format!("the fleet {} ran {was}, and is to run {is} now", self.name));
            }
            let tried = self.taken_back.tries(&self.name, plan.release.id(), &before).await?;
            self.inner.write().taken_back = Some(tried);
        }
        match fleet.upgrade_with(Some(plan.release.clone()), options).await {
            Ok(upgrading) => {
                let (slot, seen) = (Arc::clone(self), upgrading.clone());
                tokio::spawn(async move { slot.see(plan, seen).await });
                Ok(Begun { upgrading, warnings })
            }
            Err(error) => {
                // No labor was told of it.
                let restored = match &known {
                    Some(known) => self.taken_back.put(&self.name, known).await,
                    None => self.taken_back.forget(&self.name).await,
                };
                self.inner.write().taken_back = known;
                restored.unwrap_or_else(|failure| self.not_stored(&failure));
                Err(not_begun(&self.name, &error))
            }
        }
    }

    /// Remembers how an upgrade has ended. Where the fleet has stopped meanwhile, that is not known.
    async fn see(&self, plan: FleetPlan, mut upgrading: Upgrading) {
        let tried = plan.release.id();
        loop {
            match upgrading.status().stage {
                UpgradeStage::Done => return self.has_changed(&plan).await,
                UpgradeStage::GoingBack(cause) | UpgradeStage::RolledBack(cause) => {
                    return self.takes_back(tried, cause).await;
                }
                _ => {}
            }
            if upgrading.changed().await.is_err() {
                return;
            }
        }
    }

    async fn has_changed(&self, plan: &FleetPlan) {
        {
            let inner = &mut *self.inner.write();
            let present = match &mut inner.phase {
                Phase::Running(running) => Some(&mut running.plan),
                _ => None,
            };
            // What runs, and what the next start takes.
            for known in present.into_iter().chain([&mut inner.plan]) {
                known.config.release = plan.config.release.clone();
                known.release = plan.release.clone();
            }
        }
        // Else the next server would go back.
        let mut said = false;
        loop {
            let turn = self.turn.lock().await;
            if !self.inner.read().tries(plan.release.id()) {
                return;
            }
            match self.forget_taken_back().await {
                Ok(()) => return,
                Err(failure) if !std::mem::replace(&mut said, true) => self.not_stored(&failure),
                Err(_) => {}
            }
            drop(turn);
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn takes_back(&self, release: ReleaseId, cause: Cause) {
        let _turn = self.turn.lock().await;
        let taken_back = {
            let inner = &mut *self.inner.write();
            let Some(tried) = inner.taken_back.as_mut().filter(|tried| tried.release == release) else {
                return;
            };
            tried.cause = Some(cause);
            tried.clone()
        };
        // Without the cause it is known all the same.
        self.taken_back
            .put(&self.name, &taken_back)
            .await
            .unwrap_or_else(|failure| self.not_stored(&failure));
    }

    fn not_stored(&self, failure: &Failure) {
        tracing::warn!(fleet = %self.name, %failure, "what became of an upgrade is not stored");
    }

    /// Needs the turn.
    pub(super) async fn forget_taken_back(&self) -> Result<(), Failure> {
        self.taken_back.forget(&self.name).await?;
        self.inner.write().taken_back = None;
        Ok(())
    }

    /// Another release than the one that was taken back is to run from now on. Needs the turn.
    pub(super) async fn forget_another(&self) {
        let is_another = {
            let inner = self.inner.read();
            let tried = inner.taken_back.as_ref().map(|taken_back| taken_back.release);
            tried.is_some_and(|tried| tried != inner.plan.release.id()) && !inner.is_upgrading()
        };
        if is_another {
            self.forget_taken_back().await.unwrap_or_else(|failure| self.not_stored(&failure));
        }
    }

    /// What a start takes: the configuration's, but in the place of a release that was taken back the one
    /// before.
    ///
    /// # Errors
    /// `release.taken_back`: that one is not kept any more.
    pub(super) async fn plan_to_start(&self) -> Result<FleetPlan, Failure> {
        let (plan, waits) = {
            let inner = self.inner.read();
            (inner.plan.clone(), inner.waits().cloned())
        };
        let Some(taken_back) = waits else { return Ok(plan) };
        let (fleet, tried, before) = (&self.name, taken_back.release.short(), taken_back.before.short());
        let release = self.taken_back.before(&taken_back).await.map_err(|error| {
            let message = format!(
                "the release {tried} of {fleet} was taken back, and {before}, which it ran before, cannot be had: {error}"
            );
            Failure::input("release.taken_back", message).help(format!(
                "name another release in the configuration and run `overseer reload`, or run this one on all labors with `overseer fleet start {fleet} --anyway`"
            ))
        })?;
        let cause = taken_back.cause.as_ref().map(tracing::field::display);
        tracing::warn!(%fleet, tried, before, cause, "the release of the configuration was taken back: the one before is started; `overseer fleet upgrade` tries it again");
        Ok(FleetPlan { release, ..plan })
    }
}

fn is_upgrading(fleet: &Fleet) -> bool {
    fleet.upgrading().is_some_and(|upgrading| !upgrading.status().stage.is_over())
}

/// Why no upgrade could begin, as far as that is seen from here.
fn refused(fleet: &Fleet, to: ReleaseId) -> Option<NoUpgrade> {
    if is_upgrading(fleet) {
        return Some(NoUpgrade::Upgrading);
    }
    fleet.release().is_some_and(|present| present.id() == to).then_some(NoUpgrade::Same)
}

impl Inner {
    fn tries(&self, release: ReleaseId) -> bool {
        self.taken_back.as_ref().is_some_and(|taken_back| taken_back.release == release)
    }

    fn is_upgrading(&self) -> bool {
        self.running().is_some_and(|running| is_upgrading(&running.fleet))
    }

    /// What was taken back and is what the configuration names: it waits for somebody to try it again.
    pub(super) fn waits(&self) -> Option<&TakenBack> {
        self.taken_back().filter(|taken_back| taken_back.release == self.plan.release.id())
    }

    /// What was taken back, unless it is tried just now, or runs and only the store does not know yet.
    pub(super) fn taken_back(&self) -> Option<&TakenBack> {
        let runs = self.running().map(|running| running.plan.release.id());
        self.taken_back.as_ref().filter(|tried| !self.is_upgrading() && runs != Some(tried.release))
    }
}
