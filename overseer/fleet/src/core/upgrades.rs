//! Properties of upgrades: labors that behave as agents do, and faults at any time.

use std::collections::BTreeMap;
use std::time::Duration;

use overseer_protocol::{Cause, LaborId, LaborState, ReleaseId, SessionId};
use proptest::prelude::*;

use super::*;

fn release(n: u8) -> Option<ReleaseId> {
    (n > 0).then(|| ReleaseId::of_index(&[n]))
}

/// What an agent has.
#[derive(Debug, Clone, Default)]
struct Agent {
    session: Option<SessionId>,
    /// The release of its host, if one is up.
    up: Option<Option<ReleaseId>>,
    /// The order that is being carried out.
    loading: Option<Option<ReleaseId>>,
    /// It came over the present session.
    told: bool,
}

struct World {
    core: FleetCore,
    now: Millis,
    agents: BTreeMap<Life, Agent>,
    sessions: u64,
    /// Releases that no host gets up with.
    broken: Vec<Option<ReleaseId>>,
    /// Stages of upgrades, as they were told.
    stages: Vec<&'static str>,
    /// Ends of upgrades.
    ended: Vec<UpgradeStatus>,
    began: usize,
    options: UpgradeOptions,
}

impl World {
    fn new(labors: u64, options: UpgradeOptions) -> Self {
        let core = FleetCore::new(Options { max_nodes: 8, intensity: 1000, ..Options::default() }, 1);
        let (agents, broken, stages, ended) = Default::default();
        let core = core.running(release(1));
        let mut world = Self { core, now: 0, agents, sessions: 0, broken, stages, ended, began: 0, options };
        for n in 0..labors {
            world.tell(Event::Start(LaborId::new(1, n.into())));
        }
        world.settle();
        world
    }

    fn tell(&mut self, event: Event) {
        let effects = self.core.on_event(self.now, event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut after = Vec::new();
        for effect in effects {
            match effect {
                Effect::Provision(life) => {
                    self.agents.insert(life, Agent::default());
                    after.push(Event::Accepted(life));
                }
                Effect::Terminate(life) => {
                    self.agents.remove(&life);
                    after.push(Event::Ended(life, Cause::Asked));
                }
                Effect::SendShutdown(life, _, cause) => {
                    self.agents.remove(&life);
                    after.push(Event::Ended(life, cause));
                }
                Effect::Load(life, session, release) => {
                    let agent = self.agents.get_mut(&life).filter(|agent| agent.session == Some(session));
                    if let Some(agent) = agent {
                        (agent.loading, agent.told) = (Some(release), true);
                    }
                    self.check_bounds();
                }
                Effect::Upgrading(status) => self.stages.push(status.stage.name()),
                Effect::Upgraded(status) => {
                    self.stages.push(status.stage.name());
                    self.ended.push(status);
                }
                _ => {}
            }
        }
        after.into_iter().for_each(|event| self.tell(event));
    }

    /// Not more labors change at a time than may, unless they go back.
    fn check_bounds(&self) {
        let Some(status) = self.core.upgrade_status() else { return };
        let forward = !matches!(status.stage, UpgradeStage::GoingBack(_));
        // One that runs neither release, for it was told so by an upgrade before, takes no calls that would be
        // missed.
        let changes = |a: &&Agent| a.loading == Some(status.to) && a.up == Some(status.from) && a.told;
        let to_new = self.agents.values().filter(changes).count();
        let at_once = self.options.batch.map_or(1, |batch| batch.max(1)) as usize;
        assert!(!forward || to_new <= at_once, "{to_new} change at a time");
    }

    /// One step of one agent; false when it has nothing to do.
    fn step(&mut self, life: Life) -> bool {
        let Some(agent) = self.agents.get_mut(&life) else { return false };
        if agent.session.is_none() {
            self.sessions += 1;
            let session = SessionId(self.sessions);
            agent.session = Some(session);
            let (ready, release) = (agent.up.is_some(), agent.up.flatten());
            self.tell(Event::Joined(life));
            self.tell(Event::Attached { life, session, ready, release, draining: false });
            return true;
        }
        let Some(release) = agent.loading.take() else { return false };
        if agent.up == Some(release) {
            self.tell(Event::Ready(life, release));
        } else if self.broken.contains(&release) {
            self.tell(Event::NotLoaded(life, release, Cause::Panicked { message: "broken".into() }));
        } else {
            agent.up = Some(release);
            self.tell(Event::Loaded(life, release));
            self.tell(Event::Ready(life, release));
        }
        true
    }

    fn lives(&self) -> Vec<Life> {
        self.agents.keys().copied().collect()
    }

    /// All that can happen without a fault happens.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let worked = self.lives().into_iter().filter(|life| self.step(*life)).count();
            let over = self.core.upgrade_status().is_none();
            let calm = self.core.labors().all(|(_, state)| state == LaborState::Ready);
            if worked == 0 && over && calm {
                return;
            }
            if worked == 0 {
                let next = self.core.next_deadline().unwrap_or(self.now);
                self.now = self.now.max(next);
                self.lives().into_iter().for_each(|life| self.tell(Event::Heard(life)));
                self.tell(Event::Tick);
            }
        }
        panic!("it never settles: {:?}, {:?}", self.core.upgrade_status(), self.agents);
    }

    fn upgrade(&mut self, to: Option<ReleaseId>) -> Result<(), NoUpgrade> {
        let (begun, effects) = self.core.upgrade(self.now, to, self.options.clone())?;
        assert_eq!(effects[0], Effect::Upgrading(begun));
        self.began += 1;
        self.carry_out(effects);
        Ok(())
    }

    fn fault(&mut self, kind: u8, life: Life, n: u8) {
        match kind {
            0 => {
                self.agents.remove(&life);
                self.tell(Event::Ended(life, Cause::Signal { signal: 9 }));
            }
            1 => {
                let Some(agent) = self.agents.get_mut(&life) else { return };
                if let Some(session) = agent.session.take() {
                    // What was ordered over it may still be carried out.
                    agent.told = false;
                    self.tell(Event::Detached(life, session));
                }
            }
            2 => {
                let Some(up) = self.agents.get(&life).and_then(|agent| agent.up) else { return };
                self.tell(Event::HostEnded(life, up, Cause::Signal { signal: 11 }));
            }
            3 => self.broken = vec![release(n % 3)],
            4 => self.broken.clear(),
            5 => drop(self.upgrade(release(n % 3))),
            6 => {
                let failed = u64::from(n);
                let new = Tally { answers: 255, failed };
                self.tell(Event::Answers { new, before: Tally::default(), error: None });
            }
            7 => {
                self.now += u64::from(n) * 100;
                self.lives().into_iter().for_each(|life| self.tell(Event::Heard(life)));
                self.tell(Event::Tick);
            }
            _ => _ = self.step(life),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn an_upgrade_ends_with_all_labors_on_one_release_whatever_happens(
        labors in 0u64..6,
        batch in proptest::option::of(0u32..4),
        settle in 0u64..2000,
        steps in proptest::collection::vec((0u8..16, any::<u8>(), any::<u8>()), 0..80),
    ) {
        let settle = Duration::from_millis(settle);
        let options = UpgradeOptions { canary: 50, batch, settle, ..UpgradeOptions::default() };
        let mut world = World::new(labors, options);
        for (kind, which, n) in steps {
            let lives = world.lives();
            let Some(life) = lives.get(usize::from(which) % lives.len().max(1)).copied() else { break };
            world.fault(kind, life, n);
        }
        world.broken.clear();
        world.settle();
        prop_assert_eq!(world.ended.len(), world.began, "each upgrade ends once");
        let runs = world.core.release();
        prop_assert!(world.agents.values().all(|a| a.up == Some(runs)), "{:?} {:?}", runs, world.agents);
        if let Some(last) = world.ended.last() {
            let expected = if last.stage == UpgradeStage::Done { last.to } else { last.from };
            prop_assert_eq!(runs, expected);
        }
        prop_assert_eq!(world.core.len() as u64, labors, "none was lost for good");
    }
}

fn options() -> UpgradeOptions {
    UpgradeOptions { batch: Some(2), settle: Duration::ZERO, ..UpgradeOptions::default() }
}

#[test]
fn first_a_tenth_is_watched_then_the_others_change_then_all_are_watched() {
    let mut world = World::new(8, options());
    world.upgrade(release(2)).unwrap();
    let stage = |world: &World| world.core.upgrade_status().map(|s| (s.stage.name(), s.changed));
    assert_eq!(stage(&world), Some(("canary", 0)));
    assert_eq!(world.lives().into_iter().filter(|life| world.step(*life)).count(), 1);
    assert_eq!(stage(&world), Some(("canary", 1)));
    world.now += 9_999;
    world.lives().into_iter().for_each(|life| world.tell(Event::Heard(life)));
    world.tell(Event::Tick);
    assert_eq!(stage(&world), Some(("canary", 1)), "it is still watched");
    world.now += 1;
    world.tell(Event::Tick);
    assert_eq!(stage(&world), Some(("rolling", 1)));
    while world.lives().into_iter().filter(|life| world.step(*life)).count() > 0 {}
    assert_eq!(stage(&world), Some(("watching", 8)));
    assert_eq!(world.upgrade(release(3)), Err(NoUpgrade::Upgrading));
    world.settle();
    assert_eq!(world.ended[0].stage, UpgradeStage::Done);
    assert_eq!(world.stages, ["canary", "rolling", "watching", "done"]);
    assert_eq!(world.upgrade(release(2)), Err(NoUpgrade::Same));
}

#[test]
fn a_release_that_does_not_start_costs_no_labor() {
    let mut world = World::new(4, options());
    let lives = world.lives();
    world.broken = vec![release(2)];
    world.upgrade(release(2)).unwrap();
    world.settle();
    let UpgradeStage::RolledBack(cause) = &world.ended[0].stage else { panic!("{:?}", world.ended) };
    assert_eq!(cause.code(), "panicked");
    assert_eq!((world.lives(), world.core.release()), (lives, release(1)));
}

#[test]
fn one_that_crashes_while_it_is_watched_takes_all_back() {
    let mut world = World::new(4, options());
    world.upgrade(release(2)).unwrap();
    while world.lives().into_iter().filter(|life| world.step(*life)).count() > 0 {}
    let canary = world.agents.iter().find(|(_, a)| a.up == Some(release(2))).map(|(life, _)| *life).unwrap();
    world.tell(Event::HostEnded(canary, release(1), Cause::Signal { signal: 11 }));
    assert_eq!(world.core.upgrade_status().unwrap().stage, UpgradeStage::Canary, "that was the old one");
    world.tell(Event::HostEnded(canary, release(2), Cause::Signal { signal: 11 }));
    world.settle();
    assert_eq!(world.ended[0].stage, UpgradeStage::RolledBack(Cause::Signal { signal: 11 }));
    assert_eq!(world.stages, ["canary", "going_back", "rolled_back"]);
}

#[test]
fn one_that_runs_what_an_upgrade_before_has_left_changes_beside_the_others() {
    let mut world = World::new(3, UpgradeOptions { canary: 50, batch: Some(1), ..options() });
    let [first, second] = [0, 1].map(|n| world.lives()[n]);
    world.broken = vec![release(2)];
    world.upgrade(release(2)).unwrap();
    // It is lost with the order, which it carries out when nobody wants that any more.
    world.fault(1, first, 0);
    world.step(second);
    world.step(second);
    assert!(matches!(world.ended[0].stage, UpgradeStage::RolledBack(_)));
    world.broken.clear();
    world.step(first);
    world.step(first);
    world.upgrade(None).unwrap();
    world.fault(1, first, 0);
    world.step(first);
    let changing = world.agents.values().filter(|agent| agent.loading == Some(None) && agent.told);
    assert_eq!(changing.count(), 2);
    world.settle();
    assert_eq!(world.ended[1].stage, UpgradeStage::Done);
}

#[test]
fn labors_can_become_empty_and_something_again() {
    let mut world = World::new(3, options());
    for to in [None, release(2)] {
        world.upgrade(to).unwrap();
        world.settle();
        assert!(world.agents.values().all(|agent| agent.up == Some(to)));
    }
}

#[test]
fn a_labor_that_says_nothing_of_its_order_is_no_good_sign() {
    let mut world = World::new(2, options());
    world.upgrade(release(2)).unwrap();
    world.agents.values_mut().for_each(|agent| agent.loading = None);
    world.settle();
    let UpgradeStage::RolledBack(cause) = &world.ended[0].stage else { panic!("{:?}", world.ended) };
    assert_eq!(cause.code(), "boot_timeout");
}

#[test]
fn one_that_has_changed_keeps_its_place_for_a_while() {
    let settle = Duration::from_millis(300);
    let mut world = World::new(3, UpgradeOptions { canary: 0, batch: Some(1), settle, ..options() });
    world.upgrade(release(2)).unwrap();
    for changed in 1..=3 {
        while world.lives().into_iter().filter(|life| world.step(*life)).count() > 0 {}
        assert_eq!(world.core.upgrade_status().unwrap().changed, changed);
        world.now += 299;
        world.tell(Event::Tick);
        assert!(world.agents.values().all(|agent| agent.loading.is_none()));
        world.now += 1;
        world.tell(Event::Tick);
    }
    assert_eq!(world.core.upgrade_status().unwrap().stage, UpgradeStage::Watching);
}

#[test]
fn a_fleet_that_stops_says_of_no_upgrade_that_it_is_done() {
    let mut world = World::new(3, options());
    world.upgrade(release(2)).unwrap();
    let mut effects = Vec::new();
    world.core.stop_all(world.now, Cause::Asked, &mut effects);
    world.carry_out(effects);
    assert!(world.core.is_empty() && world.ended.is_empty(), "{:?}", world.ended);
}
