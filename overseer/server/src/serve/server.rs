//! A server that runs: its control plane, its fleets, and what is asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use overseer::{ControlPlane, FleetName};
use parking_lot::RwLock;

use super::faults::{Fault, Faults};
use super::gate::Gate;
use super::notify::ServiceManager;
use super::reload::labors;
use super::slot::FleetSlot;
use super::taken_back::TakenBackReleases;
use crate::config::{FleetPlan, OnStop, Plan, ServerConfig};
use crate::failure::Failure;

/// What all parts of a server share.
pub(crate) struct Server {
    pub(crate) plane: ControlPlane,
    pub(crate) gate: Gate,
    pub(crate) config: RwLock<ServerConfig>,
    pub(crate) config_path: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) socket: PathBuf,
    /// Where the control API listens over TCP, if it does.
    pub(crate) control: OnceLock<SocketAddr>,
    pub(crate) started: Instant,
    /// Where metrics are served, once they are.
    pub(crate) metrics: OnceLock<SocketAddr>,
    pub(super) manager: ServiceManager,
    /// One reload at a time.
    pub(super) reloading: tokio::sync::Mutex<()>,
    /// Fleets that are not served, and why.
    pub(crate) faults: Faults,
    taken_back: Arc<TakenBackReleases>,
    fleets: RwLock<BTreeMap<FleetName, Arc<FleetSlot>>>,
}

impl Server {
    /// One without any fleet yet.
    pub(super) fn new(
        plane: ControlPlane,
        config: ServerConfig,
        config_path: PathBuf,
        data: PathBuf,
        socket: PathBuf,
        manager: ServiceManager,
    ) -> Self {
        Self {
            taken_back: Arc::new(TakenBackReleases::new(plane.clone(), &data)),
            plane,
            gate: Gate::default(),
            config: RwLock::new(config),
            config_path,
            data,
            socket,
            control: OnceLock::new(),
            started: Instant::now(),
            metrics: OnceLock::new(),
            manager,
            reloading: tokio::sync::Mutex::default(),
            faults: Faults::default(),
            fleets: RwLock::default(),
        }
    }

    /// All fleets, by name.
    pub(crate) fn fleets(&self) -> Vec<Arc<FleetSlot>> {
        self.fleets.read().values().cloned().collect()
    }

    /// One fleet.
    ///
    /// # Errors
    /// `fleet.unknown`.
    pub(crate) fn fleet(&self, name: &str) -> Result<Arc<FleetSlot>, Failure> {
        self.fleet_of(name, |_| true)
    }

    /// One of the fleets that are seen.
    ///
    /// # Errors
    /// `fleet.unknown`, which names no other.
    pub(crate) fn fleet_of(
        &self,
        name: &str,
        seen: impl Fn(&FleetName) -> bool,
    ) -> Result<Arc<FleetSlot>, Failure> {
        let fleets = self.fleets.read();
        if let Some(slot) = name.parse::<FleetName>().ok().filter(&seen).and_then(|name| fleets.get(&name)) {
            return Ok(Arc::clone(slot));
        }
        let fault = name.parse().ok().filter(&seen).and_then(|name| self.faults.of(&name));
        if let Some(Fault { fleet, reason, help, .. }) = fault {
            let message = format!("the fleet {fleet} is not served: {reason}");
            return Err(Failure::input("fleet.not_served", message).help(help));
        }
        let known: Vec<_> = fleets.keys().filter(|name| seen(name)).map(FleetName::as_str).collect();
        let shown: String = name.chars().take(64).collect();
        Err(Failure::input("fleet.unknown", format!("there is no fleet {shown:?}")).help(
            match known.is_empty() {
                true => "the configuration has none: add one and run `overseer reload`".to_owned(),
                false => format!("the fleets are {}", known.join(", ")),
            },
        ))
    }

    pub(super) async fn add(&self, plan: FleetPlan) -> Result<Arc<FleetSlot>, Failure> {
        let slot = FleetSlot::load(&self.plane, &self.taken_back, plan).await?;
        self.fleets.write().insert(slot.name.clone(), Arc::clone(&slot));
        Ok(slot)
    }

    pub(super) fn forget(&self, name: &FleetName) {
        self.fleets.write().remove(name);
    }

    /// Starts the fleets of a plan, all at once; those that were stopped by hand stay stopped. One
    /// that does not start is noted, and the others are served.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn start_fleets(&self, plan: Plan) -> Result<(), Failure> {
        let faulty = self.faults.all().into_iter().map(|fault| fault.fleet);
        let configured: BTreeSet<FleetName> = plan.fleets.keys().cloned().chain(faulty).collect();
        self.taken_back.retain(&configured).await;
        let mut starts = tokio::task::JoinSet::new();
        for fleet in plan.fleets.into_values() {
            let slot = self.add(fleet).await?;
            starts.spawn(async move { (slot.settle().await, slot) });
        }
        while let Some(started) = starts.join_next().await {
            let (started, slot) =
                started.map_err(|e| Failure::fault("serve.fleet", format!("a fleet did not start: {e}")))?;
            if let Err(failure) = started {
                self.faults.note(&slot.name, &failure);
            }
        }
        Ok(())
    }

    /// Leaves or ends the fleets, as the configuration says.
    pub(super) async fn leave_fleets(&self) {
        let keep = self.config.read().on_stop == OnStop::Keep;
        let mut ends = tokio::task::JoinSet::new();
        for slot in self.fleets() {
            ends.spawn(async move { if keep { slot.leave().await } else { slot.end().await } });
        }
        ends.join_all().await;
    }

    /// What it serves, in a few words.
    pub(super) fn status_line(&self) -> String {
        let all = self.fleets();
        let served: Vec<_> = all.iter().filter(|slot| self.faults.of(&slot.name).is_none()).collect();
        let wanted: u32 = served.iter().map(|slot| slot.wanted().1).sum();
        let (fleets, faults) = (served.len(), self.faults.all().len());
        let noun = if fleets == 1 { "fleet" } else { "fleets" };
        let missing = if faults == 0 { String::new() } else { format!("; {faults} not served") };
        format!("{fleets} {noun}, {}{missing}", labors(wanted as usize))
    }
}
