//! One fleet of the configuration: started, stopped and brought to its number of labors.

pub(crate) mod upgrade;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use overseer::fleet::{StartChildError, StartError};
use overseer::local::Local;
use overseer::{Cause, ControlPlane, Count, Fleet, FleetName, Labor, LaborId, UpgradeStatus};
use parking_lot::RwLock;
use tokio::sync::{Mutex, MutexGuard};

use super::desired::{self, Desired};
use super::events::EventLog;
use super::taken_back::{TakenBack, TakenBackReleases};
use crate::config::{AdapterKind, FleetPlan};
use crate::exit::Exit;
use crate::failure::Failure;

/// A fleet of the configuration, whether it runs or not.
pub(crate) struct FleetSlot {
    pub(crate) name: FleetName,
    pub(crate) events: Arc<EventLog>,
    plane: ControlPlane,
    taken_back: Arc<TakenBackReleases>,
    inner: RwLock<Inner>,
    /// One change at a time: held while the fleet is started, stopped or resized.
    turn: Mutex<()>,
}

struct Inner {
    /// What the next start takes.
    plan: FleetPlan,
    desired: Option<Desired>,
    /// The release that the fleet has tried and does not run, or is trying.
    taken_back: Option<TakenBack>,
    phase: Phase,
}

#[derive(Clone)]
enum Phase {
    Stopped,
    Starting,
    Running(Running),
    Stopping(Running),
    /// It is no longer in the configuration, or the server ends: it is not started again.
    Closed,
}

/// A fleet that runs, and what it was started from.
#[derive(Clone)]
struct Running {
    fleet: Fleet,
    plan: FleetPlan,
    since: SystemTime,
}

/// Where a fleet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Stopped,
    Starting,
    Running { since: SystemTime },
    Stopping { since: SystemTime },
}

/// What a fleet is, for who looks.
pub(crate) struct Snapshot {
    pub(crate) state: State,
    /// What it runs from, or what its next start takes.
    pub(crate) plan: FleetPlan,
    /// How many labors there should be.
    pub(crate) wanted: u32,
    pub(crate) by_hand: bool,
    pub(crate) count: Count,
    /// Keys that wait for the next start.
    pub(crate) pending: Vec<&'static str>,
    /// Why it has stopped by itself, or is about to.
    pub(crate) stopped_by: Option<Cause>,
    /// The upgrade that is on its way, or the last one.
    pub(crate) upgrade: Option<UpgradeStatus>,
    /// The release that was taken back.
    pub(crate) taken_back: Option<TakenBack>,
}

/// What was done to reach a number of labors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Resized {
    pub(crate) started: usize,
    pub(crate) drained: usize,
}

/// What another plan brings.
pub(super) struct Replanned {
    /// Keys that wait for the next start.
    pub(super) waits: Vec<&'static str>,
    /// The fleet does not run, and these are the ones that have changed.
    pub(super) stopped: bool,
    /// The release waits for longer: it was taken back.
    pub(super) taken_back: bool,
}

impl FleetSlot {
    /// A fleet that does not run yet, as the store knows it.
    ///
    /// # Errors
    /// `store.…`, `serve.desired`, `serve.taken_back`.
    pub(super) async fn load(
        plane: &ControlPlane,
        taken_back: &Arc<TakenBackReleases>,
        plan: FleetPlan,
    ) -> Result<Arc<Self>, Failure> {
        let name = plan.config.name.clone();
        let desired = desired::read(plane.store(), &name).await?;
        let known = taken_back.of(&name).await?;
        let inner = RwLock::new(Inner { plan, desired, taken_back: known, phase: Phase::Stopped });
        let (events, plane, turn) = (Arc::default(), plane.clone(), Mutex::default());
        let slot = Self { name, events, plane, taken_back: Arc::clone(taken_back), inner, turn };
        slot.forget_another().await;
        Ok(Arc::new(slot))
    }

    /// Whether it runs, or is about to.
    pub(super) fn runs(&self) -> bool {
        matches!(self.inner.read().phase, Phase::Starting | Phase::Running(_))
    }

    /// Whether it should run.
    pub(super) fn is_wanted(&self) -> bool {
        self.inner.read().desired != Some(Desired::Stopped)
    }

    /// Starts the fleet unless it runs, and brings it to its number of labors. `labors` is
    /// remembered; without it the configuration decides again. With `anyway` a release that was taken
    /// back is run on all labors.
    ///
    /// # Errors
    /// `fleet.…`, `store.…`, `release.taken_back`.
    pub(crate) async fn start(&self, labors: Option<u32>, anyway: bool) -> Result<Resized, Failure> {
        let _turn = self.turn.lock().await;
        self.check_open()?;
        if anyway && self.running().await.is_some() {
            let message = format!("the fleet {} runs already", self.name);
            return Err(Failure::input("fleet.running", message)
                .help(format!("change its release: overseer fleet upgrade {}", self.name)));
        }
        let most = self.inner.read().max_labors();
        if let Some(labors) = labors.filter(|labors| *labors as usize > most) {
            let message = format!("the fleet {} may have {most} labors, not {labors}", self.name);
            return Err(Failure::input("fleet.too_many", message)
                .help("ask for fewer, or raise `max_labors` in the configuration and start the fleet anew"));
        }
        self.remember(labors.map(|labors| Desired::Running { labors })).await?;
        if anyway {
            self.forget_taken_back().await?;
        }
        self.run().await
    }

    /// Does what the store and the configuration want, without changing either.
    ///
    /// # Errors
    /// `fleet.…`.
    pub(super) async fn settle(&self) -> Result<Resized, Failure> {
        let _turn = self.turn.lock().await;
        self.check_open()?;
        if self.is_wanted() { self.run().await } else { Ok(Resized::default()) }
    }

    /// Ends all labors and the fleet, and remembers that.
    ///
    /// # Errors
    /// `store.…`; nothing was stopped then.
    pub(crate) async fn stop(&self) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        self.check_open()?;
        self.remember(Some(Desired::Stopped)).await?;
        self.halt().await;
        Ok(())
    }

    /// Ends all labors and the fleet for as long as the server lives; the next server starts it.
    pub(super) async fn end(&self) {
        let _turn = self.turn.lock().await;
        self.halt().await;
        self.inner.write().phase = Phase::Closed;
    }

    /// Leaves the labors to the next server.
    pub(super) async fn leave(&self) {
        let _turn = self.turn.lock().await;
        if let Some(running) = self.stopping() {
            running.fleet.leave().await;
        }
        self.inner.write().phase = Phase::Closed;
    }

    /// As [`FleetSlot::end`], and forgets what was said of it by hand and what it has tried.
    ///
    /// # Errors
    /// `store.…`; it has ended all the same.
    pub(super) async fn remove(&self) -> Result<(), Failure> {
        self.end().await;
        self.forget_taken_back().await?;
        self.remember(None).await
    }

    /// Lets one labor, or all of them, finish their calls and end for good; how many. A fleet
    /// that was drained as a whole stays without labors until it is started again.
    ///
    /// # Errors
    /// `fleet.not_running`, `labor.unknown`, `store.…`.
    pub(crate) async fn drain(&self, labor: Option<LaborId>) -> Result<usize, Failure> {
        let _turn = self.turn.lock().await;
        let fleet = self.fleet()?;
        let staying = staying(&fleet).await?;
        if let Some(labor) = labor {
            if !staying.contains(&labor) {
                return Err(unknown_labor(&self.name, labor));
            }
            fleet.drain(labor);
            return Ok(1);
        }
        self.remember(Some(Desired::Running { labors: 0 })).await?;
        let draining = staying.len();
        fleet.drain_all();
        Ok(draining)
    }

    /// The fleet, if it runs.
    ///
    /// # Errors
    /// `fleet.not_running`; `fleet.changing` while it starts or stops.
    pub(crate) fn fleet(&self) -> Result<Fleet, Failure> {
        let name = &self.name;
        match &self.inner.read().phase {
            Phase::Running(running) => Ok(running.fleet.clone()),
            Phase::Starting => Err(self.changing("starting")),
            Phase::Stopping(_) => Err(self.changing("stopping")),
            Phase::Stopped | Phase::Closed => {
                Err(Failure::input("fleet.not_running", format!("the fleet {name} does not run"))
                    .help(format!("start it: overseer fleet start {name}")))
            }
        }
    }

    /// Holds a fleet that does not run as it is: it is not started meanwhile.
    ///
    /// # Errors
    /// `fleet.changing` where it is being started or stopped, or runs.
    pub(crate) fn hold_stopped(&self) -> Result<MutexGuard<'_, ()>, Failure> {
        let held = self.turn.try_lock().ok().filter(|_| self.fleet().is_err());
        held.ok_or_else(|| self.changing("changing"))
    }

    /// The fleet, while there is one.
    pub(crate) fn labors(&self) -> Option<Fleet> {
        match &self.inner.read().phase {
            Phase::Running(running) | Phase::Stopping(running) => Some(running.fleet.clone()),
            _ => None,
        }
    }

    /// Takes another plan. Its number of labors is reached by [`FleetSlot::settle`]; everything
    /// else waits for the next start.
    pub(super) async fn replan(&self, plan: FleetPlan) -> Replanned {
        let _turn = self.turn.lock().await;
        let before = std::mem::replace(&mut self.inner.write().plan, plan);
        self.forget_another().await;
        let inner = self.inner.read();
        let stopped = inner.running().is_none();
        let waits = if stopped { before.differences(&inner.plan) } else { inner.pending() };
        Replanned { waits, stopped, taken_back: inner.waits().is_some() }
    }

    /// How many labors its configuration says, and how many there should be: somebody may have
    /// said another number by hand.
    pub(super) fn wanted(&self) -> (u32, u32) {
        let inner = self.inner.read();
        (inner.plan.config.labors, inner.wanted())
    }

    /// What it is just now.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let (phase, plan, wanted, by_hand, pending, taken_back) = {
            let inner = self.inner.read();
            let (phase, taken_back) = (inner.phase.clone(), inner.taken_back().cloned());
            (phase, inner.plan.clone(), inner.wanted(), inner.desired.is_some(), inner.pending(), taken_back)
        };
        let (state, running) = match phase {
            Phase::Stopped | Phase::Closed => (State::Stopped, None),
            Phase::Starting => (State::Starting, None),
            Phase::Running(running) => (State::Running { since: running.since }, Some(running)),
            Phase::Stopping(running) => (State::Stopping { since: running.since }, Some(running)),
        };
        let (count, stopped_by, upgrade) = Default::default();
        let mut snapshot =
            Snapshot { state, plan, wanted, by_hand, count, pending, stopped_by, upgrade, taken_back };
        let Some(running) = running else { return snapshot };
        snapshot.upgrade = running.fleet.upgrading().map(|upgrading| upgrading.status());
        snapshot.stopped_by = running.fleet.stopped_by().cloned();
        match running.fleet.count_children().await {
            Ok(count) => {
                if snapshot.stopped_by.is_some() {
                    snapshot.state = State::Stopping { since: running.since };
                }
                (snapshot.plan, snapshot.count) = (running.plan, count);
            }
            Err(_) => snapshot.state = State::Stopped,
        }
        snapshot
    }

    /// One who has waited for its turn may find that there is nothing left to change.
    fn check_open(&self) -> Result<(), Failure> {
        match self.inner.read().phase {
            Phase::Closed => {
                Err(Failure::input("fleet.unknown", format!("the fleet {} has just been removed", self.name)))
            }
            _ => Ok(()),
        }
    }

    fn changing(&self, what: &str) -> Failure {
        let message = format!("the fleet {} is {what}", self.name);
        Failure::fault("fleet.changing", message).help("try again in a moment")
    }

    async fn remember(&self, desired: Option<Desired>) -> Result<(), Failure> {
        desired::write(self.plane.store(), &self.name, desired).await?;
        self.inner.write().desired = desired;
        Ok(())
    }

    /// The fleet, unless it does not run or has stopped by itself.
    async fn running(&self) -> Option<Fleet> {
        let fleet = self.fleet().ok()?;
        fleet.count_children().await.ok().map(|_| fleet)
    }

    /// Starts what does not run and brings it to its number of labors. Needs the turn.
    async fn run(&self) -> Result<Resized, Failure> {
        let fleet = match self.running().await {
            Some(fleet) => fleet,
            None => {
                if let Some(stopped) = self.labors() {
                    // By itself: it may have its last words to write.
                    stopped.stop().await;
                }
                self.inner.write().phase = Phase::Starting;
                let started = async {
                    let plan = self.plan_to_start().await?;
                    Ok((self.start_fleet(&plan).await?, plan))
                };
                let started: Result<_, Failure> = started.await;
                let mut inner = self.inner.write();
                let (fleet, plan) = started.inspect_err(|_| inner.phase = Phase::Stopped)?;
                inner.phase =
                    Phase::Running(Running { fleet: fleet.clone(), plan, since: SystemTime::now() });
                fleet
            }
        };
        let (wanted, most) = {
            let inner = self.inner.read();
            (inner.wanted(), inner.max_labors())
        };
        resize(&fleet, wanted as usize, most).await
    }

    async fn start_fleet(&self, plan: &FleetPlan) -> Result<Fleet, Failure> {
        let options = plan.config.options.clone();
        let mut builder = Fleet::quiet()
            .name(self.name.as_str())
            .control_plane(&self.plane)
            .release(plan.release.clone())
            .allow_unsigned(plan.config.unsigned)
            .max_nodes(options.max_nodes)
            .restart(options.restart)
            .intensity(options.intensity, options.period)
            .escalation(options.escalation)
            .heartbeat(options.heartbeat)
            .silence(options.silence)
            .grace(options.grace)
            .lease(options.lease)
            .spin(options.spin)
            .deadlines(options.deadlines)
            .release_cache(plan.config.release_cache.clone())
            .isolation(plan.config.isolation.clone());
        builder = match plan.config.adapter {
            AdapterKind::Local => builder.adapter(Local::new()),
        };
        for key in &plan.keys {
            builder = builder.trust(key);
        }
        for (name, value) in &plan.config.environment {
            builder = builder.environment(name, value);
        }
        let fleet = builder.start().await.map_err(|error: StartError| {
            let text = format!("the fleet {} did not start: {error}", self.name);
            match error.code() {
                "release.changed" => Failure::told(Exit::BadInput, error.code(), &text)
                    .help("read it again: overseer reload; and replace releases by `mv`, not in place"),
                code => Failure::told(Exit::Fault, code, &text),
            }
        })?;
        self.events.record(&fleet);
        Ok(fleet)
    }

    /// Ends what runs. Needs the turn.
    async fn halt(&self) {
        let Some(running) = self.stopping() else { return };
        running.fleet.stop().await;
        self.inner.write().phase = Phase::Stopped;
    }

    /// What runs, which is about to stop.
    fn stopping(&self) -> Option<Running> {
        let mut inner = self.inner.write();
        let Phase::Running(running) = inner.phase.clone() else { return None };
        inner.phase = Phase::Stopping(running.clone());
        Some(running)
    }
}

impl Inner {
    /// What runs, unless it starts or stops just now.
    fn running(&self) -> Option<&Running> {
        match &self.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }

    /// How many labors there should be.
    fn wanted(&self) -> u32 {
        match self.desired {
            // It was said under another configuration.
            Some(Desired::Running { labors }) => labors.min(self.max_labors() as u32),
            Some(Desired::Stopped) => 0,
            None => self.plan.config.labors,
        }
    }

    /// How many labors there may be at all, of what runs.
    fn max_labors(&self) -> usize {
        let plan = match &self.phase {
            Phase::Running(running) | Phase::Stopping(running) => &running.plan,
            _ => &self.plan,
        };
        plan.config.options.max_nodes
    }

    fn pending(&self) -> Vec<&'static str> {
        let Some(running) = self.running() else { return Vec::new() };
        let mut keys = running.plan.differences(&self.plan);
        // It may be the same file by its name.
        if self.waits().is_some() && !keys.contains(&"release") {
            keys.push("release");
        }
        keys
    }
}

/// There is no such labor in a fleet.
pub(crate) fn unknown_labor(fleet: &FleetName, labor: LaborId) -> Failure {
    Failure::input("labor.unknown", format!("the fleet {fleet} has no labor {labor}"))
        .help(format!("overseer fleet show {fleet} lists them"))
}

/// The labors that count: not those that are about to end for good.
async fn staying(fleet: &Fleet) -> Result<BTreeSet<LaborId>, Failure> {
    let staying = fleet.staying_children().await;
    staying.map_err(|error| Failure::told(Exit::Fault, error.code(), &error.to_string()))
}

/// Starts the labors that are missing, or drains the youngest of those that are too many. Machines
/// that have joined by hand do not count, but for the slots that they take of `most`.
async fn resize(fleet: &Fleet, wanted: usize, most: usize) -> Result<Resized, Failure> {
    let (invited, labors): (Vec<Labor>, Vec<Labor>) =
        fleet.which_children().into_iter().partition(Labor::is_invited);
    let staying = staying(fleet).await?;
    let mut labors: Vec<_> = labors.into_iter().filter(|labor| staying.contains(&labor.id())).collect();
    if labors.len() > wanted {
        let surplus = labors.split_off(wanted);
        surplus.iter().for_each(|labor| fleet.drain(labor.id()));
        return Ok(Resized { started: 0, drained: surplus.len() });
    }
    let room = most.saturating_sub(invited.len()).max(labors.len());
    // More than there may be at all is a mistake all the same.
    let reached = if wanted <= most { wanted.min(room) } else { wanted };
    if reached < wanted {
        let (fleet, invited) = (fleet.name(), invited.len());
        tracing::warn!(%fleet, wanted, reached, invited, "machines that were invited take slots of labors that are wanted; raise max_labors");
    }
    let missing = reached - labors.len();
    if missing > 0 {
        fleet.start_children(missing).await.map_err(|error: StartChildError| {
            let text = format!("{missing} labors of {} did not start: {error}", fleet.name());
            Failure::told(Exit::Fault, error.code(), &text)
        })?;
    }
    Ok(Resized { started: missing, drained: 0 })
}
