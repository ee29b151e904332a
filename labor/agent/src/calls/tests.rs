use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Said = Vec<Effect<(), u32>>;

fn call(id: u64) -> NewCall<()> {
    NewCall { id, queue: None, run: None, cast: false, stored: false, bytes: 10, payload: () }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

struct World {
    calls: Calls<()>,
    now: Instant,
}

impl World {
    fn up(concurrency: u32) -> Self {
        let mut world = Self { calls: Calls::default(), now: Instant::now() };
        world.tell(Event::HostUp { host: 1, concurrency });
        world
    }

    fn tell(&mut self, event: Event<(), u32>) -> Said {
        self.calls.on_event(self.now, event)
    }

    fn after(&mut self, wait: Duration) -> Said {
        self.now += wait;
        self.tell(Event::Tick)
    }
}

fn answer(said: &Said, id: u64) -> Option<(CallErrorCode, Option<Cause>)> {
    said.iter().find_map(|effect| match effect {
        Effect::Answer(of, Outcome::Failed { code, cause, .. }) if *of == id => Some((*code, cause.clone())),
        _ => None,
    })
}

#[test]
fn calls_beyond_the_concurrency_wait_and_run_in_order() {
    let mut world = World::up(2);
    for id in 1..=4 {
        let said = world.tell(Event::Arrived(call(id)));
        assert_eq!(said.contains(&Effect::Run(id, ())), id <= 2);
    }
    let said = world.tell(Event::Finished(2, Ok(7)));
    assert_eq!(said, [Effect::Answer(2, Outcome::Done(7)), Effect::Over(2), Effect::Run(3, ())]);
}

#[test]
fn what_is_asked_back_is_given_back_unless_it_has_begun() {
    let mut world = World::up(1);
    for id in 1..=3 {
        world.tell(Event::Arrived(NewCall { stored: true, ..call(id) }));
    }
    assert_eq!(world.tell(Event::AskedBack(1)), []);
    let said = world.tell(Event::AskedBack(2));
    assert_eq!(answer(&said, 2), Some((CallErrorCode::GivenBack, None)));
    assert_eq!(world.tell(Event::AskedBack(2)), []);
    let said = world.tell(Event::Finished(1, Ok(7)));
    assert_eq!(said, [Effect::Answer(1, Outcome::Done(7)), Effect::Over(1), Effect::Run(3, ())]);
}

#[test]
fn while_calls_are_short_some_wait_in_the_host_but_no_tasks() {
    let mut world = World::up(2);
    let run = |world: &mut World, first: u64, stored: bool, took: Duration| {
        for id in first..first + 100 {
            world.tell(Event::Arrived(NewCall { stored, ..call(id) }));
        }
        let most = world.calls.running();
        for id in first..first + 100 {
            world.now += took;
            world.tell(Event::Finished(id, Ok(0)));
        }
        most
    };
    assert_eq!(run(&mut world, 0, false, Duration::from_micros(5)), 2, "nothing is known of them");
    assert_eq!(run(&mut world, 100, false, Duration::from_micros(5)), 66);
    assert_eq!(run(&mut world, 200, true, Duration::from_micros(5)), 2);
    assert_eq!(run(&mut world, 300, false, ms(3)), 66);
    assert_eq!(run(&mut world, 400, false, ms(3)), 2, "they are no longer short");
}

#[test]
fn a_call_that_waits_too_long_is_answered_and_never_runs() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::Arrived(NewCall { queue: Some(ms(50)), ..call(2) }));
    assert_eq!(world.calls.next_deadline(), Some(world.now + ms(50)));
    let said = world.after(ms(50));
    assert_eq!(answer(&said, 2).unwrap().0, CallErrorCode::QueueDeadline);
    assert_eq!(world.tell(Event::Finished(1, Ok(0))).len(), 2);
}

#[test]
fn a_call_past_its_deadline_may_still_end_well_within_the_grace() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(NewCall { run: Some(ms(50)), ..call(1) }));
    assert_eq!(world.after(ms(50)), [Effect::Stop(1)]);
    let error = Err(Failure::new(CallErrorCode::Failed, "stopped"));
    let said = world.tell(Event::Finished(1, error));
    assert_eq!(answer(&said, 1).unwrap().0, CallErrorCode::RunDeadline);
    world.tell(Event::Arrived(NewCall { run: Some(ms(50)), ..call(2) }));
    world.after(ms(50));
    assert!(world.tell(Event::Finished(2, Ok(9))).contains(&Effect::Answer(2, Outcome::Done(9))));
}

#[test]
fn a_plugin_that_ignores_a_cancel_costs_the_host_and_its_neighbours() {
    let mut world = World::up(2);
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::Arrived(call(2)));
    world.tell(Event::Arrived(call(3)));
    assert_eq!(world.tell(Event::Cancelled(1)), [Effect::Stop(1)]);
    assert!(world.tell(Event::Cancelled(1)).is_empty(), "once is enough");
    let hung = Cause::Hung { after_ms: 2000 };
    assert_eq!(world.after(CANCEL_GRACE), [Effect::KillHost(1, hung.clone())]);
    let said = world.tell(Event::HostEnded { host: 1, cause: hung.clone(), restarts: true });
    assert_eq!(answer(&said, 1), Some((CallErrorCode::Cancelled, Some(hung.clone()))));
    assert_eq!(answer(&said, 2), Some((CallErrorCode::HostEnded, Some(hung))));
    assert_eq!(answer(&said, 3), None, "it has not run and waits for the next host");
    assert!(world.tell(Event::HostUp { host: 2, concurrency: 2 }).contains(&Effect::Run(3, ())));
}

#[test]
fn a_labor_refuses_what_it_cannot_take_by_name() {
    let code = |world: &mut World, id| answer(&world.tell(Event::Arrived(call(id))), id).map(|a| a.0);
    let mut none = World { calls: Calls::default(), now: Instant::now() };
    assert_eq!(code(&mut none, 1), Some(CallErrorCode::NotReady));
    let mut program = World::up(0);
    assert_eq!(code(&mut program, 1), Some(CallErrorCode::NoMethod));
    let mut full = World::up(1);
    for id in 0..=MAX_WAITING as u64 {
        assert_eq!(code(&mut full, id), None);
    }
    assert_eq!(code(&mut full, 9999), Some(CallErrorCode::Overloaded));
    let mut large = World::up(1);
    world_of_large(&mut large);
    assert_eq!(code(&mut large, 9), Some(CallErrorCode::Overloaded));
    let mut drains = World::up(1);
    drains.tell(Event::Arrived(call(1)));
    drains.tell(Event::Arrived(call(2)));
    assert_eq!(answer(&drains.tell(Event::Draining), 2).unwrap().0, CallErrorCode::Draining);
    assert_eq!(code(&mut drains, 3), Some(CallErrorCode::Draining));
    assert_eq!(drains.calls.running(), 1, "what runs is finished");
}

fn world_of_large(world: &mut World) {
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::Arrived(NewCall { bytes: MAX_WAITING_BYTES, ..call(2) }));
}

#[test]
fn a_host_that_is_given_up_leaves_no_call_waiting() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::Arrived(call(2)));
    let said = world.tell(Event::HostEnded { host: 1, cause: Cause::Asked, restarts: false });
    assert_eq!(answer(&said, 1).unwrap().0, CallErrorCode::HostEnded);
    assert_eq!(answer(&said, 2).unwrap().0, CallErrorCode::NotReady);
}

#[test]
fn a_lost_session_stops_its_calls_and_answers_none() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::Arrived(call(2)));
    assert_eq!(world.tell(Event::SessionLost), [Effect::Over(2), Effect::Stop(1)]);
    assert_eq!(world.tell(Event::Finished(1, Ok(0))), [Effect::Over(1)]);
    assert_eq!((world.calls.running(), world.calls.waiting()), (0, 0));
}

fn events() -> impl Strategy<Value = Vec<(Event<(), u32>, u64)>> {
    let limit = || proptest::option::of((1u64..3000).prop_map(ms));
    let arrived = (0u64..40, limit(), limit(), 0u8..3).prop_map(|(id, queue, run, kind)| {
        let (cast, stored) = (kind == 1, kind == 2);
        Event::Arrived(NewCall { id, queue, run, cast, stored, bytes: 1000, payload: () })
    });
    let event = prop_oneof![
        8 => arrived,
        3 => (0u64..40).prop_map(Event::Cancelled),
        6 => (0u64..40).prop_map(|id| Event::Finished(id, Ok(1))),
        2 => (0u64..40).prop_map(|id| Event::Finished(id, Err(Failure::new(CallErrorCode::Failed, "x")))),
        2 => (0u32..5).prop_map(|concurrency| Event::HostUp { host: 0, concurrency }),
        1 => (any::<u32>(), any::<bool>()).prop_map(|(host, restarts)| {
            Event::HostEnded { host, cause: Cause::OutOfMemory, restarts }
        }),
        1 => Just(Event::HostStarting),
        1 => Just(Event::NoHost),
        4 => Just(Event::Tick),
        1 => Just(Event::SessionLost),
    ];
    proptest::collection::vec((event, 0u64..1500), 1..200)
}

proptest! {
    #[test]
    fn every_call_is_answered_exactly_once_whatever_happens(events in events()) {
        let mut world = World::up(3);
        // Whether an answer is wanted of each call that is open.
        let mut open: BTreeMap<u64, bool> = BTreeMap::new();
        let mut stored: BTreeSet<u64> = BTreeSet::new();
        let mut answered: BTreeSet<u64> = BTreeSet::new();
        // Where each call runs that does.
        let mut runs: BTreeMap<u64, HostNumber> = BTreeMap::new();
        // Those that live, the present one last; and the number of the newest.
        let (mut hosts, mut newest) = (vec![1], 1);
        let end = |host| (Event::HostEnded { host, cause: Cause::Asked, restarts: false }, 0);
        let ends = (0..64).map(end).chain([(Event::NoHost, 0)]);
        for (mut event, wait) in events.into_iter().chain(ends) {
            world.now += ms(wait);
            match &mut event {
                Event::HostUp { host, .. } => {
                    newest += 1;
                    *host = newest;
                    hosts.push(newest);
                }
                Event::HostEnded { host, .. } if hosts.is_empty() => *host = 0,
                Event::HostEnded { host, .. } => *host = hosts.remove(*host as usize % hosts.len()),
                _ => {}
            }
            match &event {
                Event::Arrived(call) if !open.contains_key(&call.id) => {
                    open.insert(call.id, !call.cast);
                    answered.remove(&call.id);
                    stored.remove(&call.id);
                    stored.extend(call.stored.then_some(call.id));
                }
                Event::SessionLost => {
                    open.iter_mut().filter(|(id, _)| !stored.contains(id)).for_each(|(_, w)| *w = false);
                }
                Event::HostEnded { host, .. } => runs.retain(|_, of| of != host),
                Event::Finished(id, _) => { runs.remove(id); }
                _ => {}
            }
            for effect in world.tell(event) {
                match effect {
                    Effect::Answer(id, _) => {
                        prop_assert_eq!(open.get(&id), Some(&true), "an answer nobody wants: {}", id);
                        prop_assert!(answered.insert(id), "answered twice: {}", id);
                    }
                    Effect::Over(id) => {
                        let wanted = open.remove(&id);
                        runs.remove(&id);
                        prop_assert!(wanted.is_some(), "over twice: {}", id);
                        prop_assert!(wanted == Some(false) || answered.contains(&id), "no answer: {}", id);
                    }
                    Effect::Run(id, ()) => {
                        prop_assert!(open.contains_key(&id) && !answered.contains(&id));
                        prop_assert!(runs.insert(id, newest).is_none(), "runs twice: {}", id);
                    }
                    Effect::Stop(id) => prop_assert!(open.contains_key(&id)),
                    Effect::KillHost(host, cause) => {
                        prop_assert_eq!(cause.code(), "hung");
                        prop_assert!(hosts.contains(&host), "it is gone");
                    }
                    Effect::Idle(host) => {
                        prop_assert!(!runs.values().any(|of| *of == host), "{} has calls", host);
                    }
                }
            }
            let calls = &world.calls;
            prop_assert_eq!(calls.running() + calls.waiting(), open.len());
            prop_assert_eq!(calls.deadlines.len(), calls.due.len());
            prop_assert!(calls.waiting_bytes <= MAX_WAITING_BYTES);
        }
        prop_assert!(open.is_empty(), "never answered: {:?}", open);
        prop_assert!(world.calls.deadlines.is_empty() && world.calls.calls.is_empty());
    }
}

#[test]
fn an_attempt_of_a_stored_task_goes_on_without_its_session() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(NewCall { stored: true, ..call(1) }));
    world.tell(Event::Arrived(NewCall { stored: true, ..call(2) }));
    assert_eq!(world.tell(Event::SessionLost), []);
    let effects = world.tell(Event::Finished(1, Ok(7)));
    assert_eq!(effects, [Effect::Answer(1, Outcome::Done(7)), Effect::Over(1), Effect::Run(2, ())]);
}

#[test]
fn a_call_that_its_stopping_host_gives_up_is_not_called_cancelled_by_its_caller() {
    let gives_up = || Event::Finished(1, Err(Failure::new(CallErrorCode::Cancelled, "stops")));
    let mut stops = World::up(1);
    stops.tell(Event::Arrived(call(1)));
    stops.tell(Event::Draining);
    assert_eq!(answer(&stops.tell(gives_up()), 1), Some((CallErrorCode::HostEnded, Some(Cause::Asked))));
    let mut cancelled = World::up(1);
    cancelled.tell(Event::Arrived(call(1)));
    cancelled.tell(Event::Draining);
    cancelled.tell(Event::Cancelled(1));
    assert_eq!(answer(&cancelled.tell(gives_up()), 1), Some((CallErrorCode::Cancelled, None)));
}

#[test]
fn what_an_older_host_has_stays_with_it_until_it_is_done() {
    let mut world = World::up(2);
    for id in 1..=3 {
        world.tell(Event::Arrived(call(id)));
    }
    let said = world.tell(Event::HostUp { host: 2, concurrency: 1 });
    assert_eq!(said, [Effect::Run(3, ())], "the places of the older one do not count");
    assert_eq!(world.calls.running(), 3);
    assert_eq!(world.tell(Event::Finished(2, Ok(7))), [Effect::Answer(2, Outcome::Done(7)), Effect::Over(2)]);
    let said = world.tell(Event::Finished(1, Ok(8)));
    assert_eq!(said, [Effect::Answer(1, Outcome::Done(8)), Effect::Over(1), Effect::Idle(1)]);
    assert_eq!(world.tell(Event::HostUp { host: 3, concurrency: 1 }), []);
    let gives_up = Event::Finished(3, Err(Failure::new(CallErrorCode::Cancelled, "stops")));
    assert_eq!(answer(&world.tell(gives_up), 3), Some((CallErrorCode::HostEnded, Some(Cause::Asked))));
}

#[test]
fn a_host_without_calls_is_idle_as_soon_as_another_one_takes_over() {
    let mut world = World::up(1);
    assert_eq!(world.tell(Event::HostStarting), [Effect::Idle(1)]);
    world.tell(Event::Arrived(call(1)));
    assert_eq!(world.tell(Event::HostUp { host: 2, concurrency: 1 }), [Effect::Run(1, ())]);
}

#[test]
fn the_end_of_an_older_host_fails_its_own_calls_only() {
    let mut world = World::up(1);
    world.tell(Event::Arrived(call(1)));
    world.tell(Event::HostUp { host: 2, concurrency: 1 });
    world.tell(Event::Arrived(call(2)));
    let crash = Cause::Signal { signal: 11 };
    let said = world.tell(Event::HostEnded { host: 1, cause: crash.clone(), restarts: false });
    assert_eq!(answer(&said, 1), Some((CallErrorCode::HostEnded, Some(crash))));
    assert_eq!(answer(&said, 2), None);
    world.tell(Event::Arrived(call(3)));
    assert!(world.tell(Event::Finished(2, Ok(1))).contains(&Effect::Run(3, ())), "the newer one goes on");
}
