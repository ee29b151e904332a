//! Any sequence of events: no slot stays taken, no node unterminated, no call unanswered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overseer_protocol::{Cause, Generation, LaborId, LaborState, ReleaseId, SessionId};
use proptest::prelude::*;

use super::*;

const LABORS: u64 = 3;
const EVENTS: usize = 24;
/// The event of [`event`] with which a node is dead.
const ENDED: usize = 11;

fn id(n: u64) -> LaborId {
    LaborId::new(n, 7)
}

fn options(restart: Restart, escalation: Escalation) -> Options {
    Options {
        max_nodes: 2,
        restart,
        intensity: 4,
        period: Duration::from_secs(20),
        escalation,
        ..Options::default()
    }
}

/// Follows the effects as a shell and its world would, and checks each.
#[derive(Default)]
struct World {
    /// Nodes that were asked for and have not been confirmed dead; whether their end was asked.
    nodes: BTreeMap<Life, bool>,
    /// Labors whose machines no adapter has.
    invited: BTreeSet<LaborId>,
    /// Sessions that calls may be waiting on.
    open: BTreeSet<Life>,
    started: BTreeSet<LaborId>,
    forgotten: BTreeSet<LaborId>,
    states: BTreeMap<LaborId, LaborState>,
}

impl World {
    fn take(&mut self, core: &FleetCore, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Provision(life) | Effect::Terminate(life) if self.invited.contains(&life.labor) => {
                    panic!("an adapter is asked for a machine that was invited: {effect:?}");
                }
                Effect::Provision(life) => {
                    for (other, asked) in &self.nodes {
                        assert!(other.labor != life.labor || *asked, "{other:?} lives on beside {life:?}");
                    }
                    assert!(!self.open.contains(life), "calls were left open over a restart");
                    self.nodes.insert(*life, false);
                    self.started.insert(life.labor);
                }
                Effect::Terminate(life) => {
                    self.nodes.insert(*life, true);
                }
                Effect::OpenForCalls(life, _) => {
                    self.open.insert(*life);
                }
                Effect::CloseForCalls(life) | Effect::CloseSession(life, None) => {
                    self.open.remove(life);
                }
                Effect::Forget(labor) => {
                    assert!(self.forgotten.insert(*labor), "{labor} was forgotten twice");
                    for (other, asked) in &self.nodes {
                        assert!(other.labor != *labor || *asked, "{other:?} lives on and nobody knows it");
                    }
                    assert!(
                        self.open.iter().all(|l| l.labor != *labor),
                        "calls wait on a labor that is gone"
                    );
                }
                Effect::State(life, state, _) => {
                    self.states.insert(life.labor, *state);
                }
                _ => {}
            }
        }
        assert!(core.len() <= core.options().max_nodes);
        for (life, state) in core.labors() {
            assert_eq!(self.states.get(&life.labor), Some(&state), "the state told is the state");
        }
    }

    /// The node is dead, by itself or because it was asked to.
    fn dies(&mut self, life: Life) {
        self.nodes.remove(&life);
    }
}

/// A release that the fleet does not run.
fn other() -> ReleaseId {
    ReleaseId::of_index(b"other")
}

fn event(kind: usize, life: Life, session: SessionId, variant: u8) -> Event {
    let cause = match variant % 4 {
        0 => Cause::Signal { signal: 9 },
        1 => Cause::Exited { code: 0 },
        2 => Cause::Reclaimed { notice: "spot".into() },
        _ => Cause::Asked,
    };
    match kind {
        0 => Event::Start(life.labor),
        1 => Event::Accepted(life),
        2 => Event::Refused { life, cause, retryable: variant.is_multiple_of(2) },
        3 => Event::Joined(life),
        4 => Event::Attached {
            life,
            session,
            release: None,
            ready: variant.is_multiple_of(3),
            draining: variant.is_multiple_of(7),
        },
        5 => Event::Loaded(life, None),
        6 | 7 => Event::Ready(life, None),
        8 => Event::Failed(life, cause),
        9 => Event::Heard(life),
        10 => Event::Detached(life, session),
        ENDED => Event::Ended(life, cause),
        12 => Event::Going(life, cause),
        13 => Event::Drain(life.labor),
        14 => Event::Drained(life),
        15 => Event::Terminate(life.labor, cause),
        16 => Event::TerminateFailed(life),
        17 => Event::Adopted {
            life,
            found: match variant % 4 {
                0 => Found::Booting,
                1 => Found::Running,
                2 => Found::Ending(cause),
                _ => Found::Waiting,
            },
            unwanted: variant > 127,
            invited: variant.is_multiple_of(5).then(|| Duration::from_millis(u64::from(variant) * 100)),
        },
        18 => Event::Invite { id: life.labor, ttl: Duration::from_millis(u64::from(variant) * 100) },
        19 => Event::Left(life, cause),
        20 => Event::Paused(variant.is_multiple_of(5)),
        21 => Event::NotLoaded(life, variant.is_multiple_of(2).then(other), cause),
        22 => Event::HostEnded(life, None, cause),
        23 => Event::Answers { new: Tally::default(), before: Tally::default(), error: None },
        _ => Event::Tick,
    }
}

/// The event that brings a labor in this state on.
fn usual(state: Option<LaborState>, variant: u8) -> usize {
    match state {
        None if variant.is_multiple_of(2) => 18,
        None => 0,
        Some(LaborState::Requested) => 1,
        Some(LaborState::Booting) => 3,
        Some(LaborState::Joining | LaborState::Lost) => 4,
        Some(LaborState::Loading) => 5,
        Some(LaborState::Loaded) => 6,
        Some(_) => 9,
    }
}

fn name(event: &Event) -> String {
    let text = format!("{event:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

#[test]
fn no_sequence_of_events_leaves_a_slot_a_node_or_a_call_behind() {
    let covered: RefCell<BTreeMap<(String, String), u64>> = RefCell::default();
    // A third of the steps go the usual way, so that late states are reached often.
    let step = (0usize..EVENTS * 3 / 2, 0u64..LABORS, any::<u8>(), 0u32..2_000, 0u8..12);
    let restart = prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)];
    let escalation = prop_oneof![Just(Escalation::GiveUpLabor), Just(Escalation::StopFleet)];
    let config = ProptestConfig { cases: 30_000, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step, 1..120), restart in restart, escalation in escalation, seed: u64)| {
        let mut core = FleetCore::new(options(restart, escalation), seed);
        let mut world = World::default();
        let mut now = 0;
        let mut next_session = 1;
        let mut sessions: BTreeMap<Life, SessionId> = BTreeMap::new();
        for (kind, n, variant, wait, luck) in steps {
            now += u64::from(wait);
            let current = core.labors().find(|(l, _)| l.labor == id(n));
            let kind = match luck {
                // Nodes die often, so that the wait before the next restart is reached often too.
                2 => ENDED,
                _ if kind > EVENTS => usual(current.map(|(_, state)| state), variant),
                _ => kind,
            };
            let mut life = current.map_or(Life { labor: id(n), generation: Generation::FIRST }, |(l, _)| l);
            if world.forgotten.contains(&life.labor) {
                continue;
            }
            // Now and then something of an older life or session comes late.
            if luck == 0 {
                life.generation = Generation(life.generation.0.saturating_sub(1));
            }
            let session = if kind == 4 {
                next_session += 1;
                sessions.insert(life, SessionId(next_session));
                SessionId(next_session)
            } else if luck == 1 {
                SessionId(1)
            } else {
                sessions.get(&life).copied().unwrap_or(SessionId(1))
            };
            let event = event(kind, life, session, variant);
            if let Some((_, state)) = current {
                let state = named(state, core.is_invited(life.labor));
                *covered.borrow_mut().entry((state, name(&event))).or_default() += 1;
            }
            if matches!(event, Event::Ended(..)) {
                world.dies(life);
            }
            let room = core.admit(1).is_ok() && !core.is_stopping();
            match &event {
                Event::Adopted { .. } | Event::Invite { .. } if current.is_none() && !room => continue,
                Event::Adopted { invited: Some(_), .. } | Event::Invite { .. } if current.is_none() => {
                    world.started.insert(life.labor);
                    world.invited.insert(life.labor);
                }
                Event::Adopted { found, .. } if current.is_none() => {
                    world.started.insert(life.labor);
                    if *found != Found::Waiting {
                        world.nodes.insert(life, false);
                    }
                }
                _ => {}
            }
            let effects = core.on_event(now, event);
            world.take(&core, &effects);
        }
        // Whatever happened: asked to stop, all is gone within the deadlines, if the adapter works.
        let mut effects = Vec::new();
        core.stop_all(now, Cause::Asked, &mut effects);
        world.take(&core, &effects);
        for _ in 0..200 {
            let asked: Vec<Life> = world.nodes.iter().filter(|(_, asked)| **asked).map(|(l, _)| *l).collect();
            for life in asked {
                world.dies(life);
                let effects = core.on_event(now, Event::Ended(life, Cause::Signal { signal: 9 }));
                world.take(&core, &effects);
            }
            let Some(next) = core.next_deadline() else { break };
            now = now.max(next);
            let effects = core.on_event(now, Event::Tick);
            world.take(&core, &effects);
        }
        prop_assert!(core.is_empty(), "slots left: {:?}", core.labors().collect::<Vec<_>>());
        prop_assert!(world.nodes.is_empty(), "nodes left: {:?}", world.nodes);
        prop_assert!(world.open.is_empty(), "calls wait: {:?}", world.open);
        prop_assert_eq!(&world.started, &world.forgotten);
    });
    let covered = covered.into_inner();
    let unreached = unreached(&covered);
    println!("{} (state, event) pairs covered", covered.len());
    for ((state, event), times) in &covered {
        println!("  {state:20} {event:16} {times}");
    }
    assert!(unreached.is_empty(), "never reached: {unreached:?}");
}

/// A state of a labor, of one that was invited by a name of its own.
fn named(state: LaborState, invited: bool) -> String {
    if invited { format!("invited {state}") } else { state.to_string() }
}

fn unreached(covered: &BTreeMap<(String, String), u64>) -> Vec<(String, String)> {
    // `connected` is passed through within one event; `terminated` labors are forgotten.
    let states =
        LaborState::ALL.into_iter().filter(|s| !matches!(s, LaborState::Connected | LaborState::Terminated));
    let life = Life { labor: id(0), generation: Generation::FIRST };
    let events: BTreeSet<String> = (0..=EVENTS).map(|k| name(&event(k, life, SessionId(1), 0))).collect();
    // An invitation begins when it is given, and nothing follows it.
    let both = |s: LaborState| {
        let invited = !matches!(s, LaborState::Requested | LaborState::Backoff);
        [Some(named(s, false)), invited.then(|| named(s, true))]
    };
    states
        .flat_map(both)
        .flatten()
        .flat_map(|s| events.iter().map(move |e| (s.clone(), e.clone())))
        .filter(|pair| !covered.contains_key(pair))
        .collect()
}

fn ready(core: &mut FleetCore, n: u64) -> Life {
    let life = Life { labor: id(n), generation: Generation::FIRST };
    core.on_event(0, Event::Start(id(n)));
    core.on_event(0, Event::Accepted(life));
    core.on_event(0, Event::Joined(life));
    core.on_event(
        0,
        Event::Attached { life, session: SessionId(1), release: None, ready: false, draining: false },
    );
    core.on_event(0, Event::Loaded(life, None));
    core.on_event(0, Event::Ready(life, None));
    life
}

#[test]
fn a_killed_labor_is_replaced_at_once_and_a_silent_one_after_grace() {
    let mut core = FleetCore::new(options(Restart::Permanent, Escalation::GiveUpLabor), 1);
    let life = ready(&mut core, 0);
    let next = Life { generation: Generation(2), ..life };
    let effects = core.on_event(5, Event::Ended(life, Cause::Signal { signal: 9 }));
    assert!(effects.contains(&Effect::Provision(next)), "{effects:?}");

    let mut core = FleetCore::new(options(Restart::Permanent, Escalation::GiveUpLabor), 1);
    let life = ready(&mut core, 0);
    let effects = core.on_event(3_000, Event::Tick);
    assert!(
        effects.contains(&Effect::Tell(Happening::Disconnected(
            life,
            Cause::HeartbeatLost { silent_ms: 3_000 }
        )))
    );
    assert_eq!(core.next_deadline(), Some(8_000));
    let effects = core.on_event(8_000, Event::Tick);
    assert!(effects.contains(&Effect::Terminate(life)), "{effects:?}");
}

#[test]
fn a_labor_that_attaches_again_and_again_does_not_load_for_ever() {
    let mut core = FleetCore::new(options(Restart::Temporary, Escalation::GiveUpLabor), 1);
    let life = Life { labor: id(0), generation: Generation::FIRST };
    core.on_event(0, Event::Start(id(0)));
    core.on_event(0, Event::Accepted(life));
    core.on_event(0, Event::Joined(life));
    let deadlines = Deadlines::default();
    let whole = (deadlines.load + deadlines.start).as_millis() as u64;
    for n in 0.. {
        let now = n * 1_000;
        let attached =
            Event::Attached { life, session: SessionId(n + 1), release: None, ready: false, draining: false };
        core.on_event(now, attached);
        let effects = core.on_event(now, Event::Tick);
        if effects.contains(&Effect::Terminate(life)) {
            assert_eq!(now, whole);
            return;
        }
        assert!(now < whole, "it still loads");
    }
}

#[test]
fn restarts_beyond_the_intensity_escalate() {
    let mut core = FleetCore::new(options(Restart::Permanent, Escalation::StopFleet), 1);
    let mut life = ready(&mut core, 0);
    let other = ready(&mut core, 1);
    for round in 0..5 {
        let effects = core.on_event(round, Event::Ended(life, Cause::Signal { signal: 11 }));
        if round < 4 {
            life.generation = life.generation.next();
            core.on_event(
                round,
                Event::Attached {
                    life,
                    session: SessionId(9 + round),
                    release: None,
                    ready: true,
                    draining: false,
                },
            );
        } else {
            assert!(
                effects.iter().any(|e| matches!(e, Effect::Tell(Happening::Escalated(..)))),
                "{effects:?}"
            );
            assert!(
                effects.iter().any(|e| matches!(e, Effect::SendShutdown(l, ..) if *l == other)),
                "{effects:?}"
            );
        }
    }
}

#[test]
fn a_full_fleet_says_so_and_takes_nothing() {
    let mut core = FleetCore::new(options(Restart::Permanent, Escalation::GiveUpLabor), 1);
    ready(&mut core, 0);
    assert_eq!(core.admit(2), Err(AtCapacity { taken: 1, max: 2 }));
    assert_eq!(core.admit(1), Ok(()));
    core.on_event(0, Event::Start(id(1)));
    assert!(core.on_event(0, Event::Start(id(2))).is_empty());
}
