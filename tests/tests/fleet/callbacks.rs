//! The user's callbacks: which, in which order, with what.

use std::sync::Arc;

use overseer::{
    Body, BoxError, Cause, Facts, Fleet, FleetEvent, Labor, LaborId, Overseer, Record, ReleaseId, WhatNext,
};
use overseer_tests::{TestFleet, eventually, probe, probes, processes, within};
use parking_lot::Mutex;
use rustix::process::Signal;

/// One callback and its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Init,
    Connected(LaborId),
    Loaded(LaborId, ReleaseId),
    Paired(LaborId),
    Said(LaborId, String),
    Disconnected(LaborId, Cause),
    Terminated(LaborId, Cause, WhatNext),
    Event(FleetEvent),
}

/// Writes down every callback, where it can be read also after the fleet's end.
#[derive(Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Vec<Seen>>>);

impl Diary {
    pub(crate) fn read(&self) -> Vec<Seen> {
        self.0.lock().clone()
    }

    pub(crate) async fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        eventually(what, async || self.0.lock().iter().find_map(&mut find)).await
    }

    fn note(&self, seen: Seen) {
        self.0.lock().push(seen);
    }
}

impl Overseer for Diary {
    async fn init(&mut self, _: &Fleet<Self>) -> Result<(), BoxError> {
        self.note(Seen::Init);
        Ok(())
    }

    async fn handle_connected(&mut self, _: &Fleet<Self>, labor: &Labor, facts: &Facts) {
        assert!(facts.pid > 0);
        self.note(Seen::Connected(labor.id()));
    }

    async fn handle_loaded(&mut self, _: &Fleet<Self>, labor: &Labor, release: &ReleaseId) {
        self.note(Seen::Loaded(labor.id(), *release));
    }

    async fn handle_paired(&mut self, _: &Fleet<Self>, labor: &Labor) {
        self.note(Seen::Paired(labor.id()));
    }

    async fn handle_telemetry(&mut self, _: &Fleet<Self>, labor: &Labor, record: &Record<'_>) {
        if let Body::Event { name, .. } = record.body {
            self.note(Seen::Said(labor.id(), name.to_owned()));
        }
    }

    async fn handle_disconnected(&mut self, _: &Fleet<Self>, labor: &Labor, cause: &Cause) {
        self.note(Seen::Disconnected(labor.id(), cause.clone()));
    }

    async fn handle_terminated(&mut self, _: &Fleet<Self>, labor: &Labor, cause: &Cause, next: WhatNext) {
        self.note(Seen::Terminated(labor.id(), cause.clone(), next));
    }

    async fn handle_event(&mut self, _: &Fleet<Self>, event: &FleetEvent) {
        self.note(Seen::Event(event.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_callback_is_called_in_order_and_the_last_one_before_the_fleet_has_stopped() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone())).await;
    let id = labor.id();
    diary.wait_for("telemetry", |s| matches!(s, Seen::Said(..)).then_some(())).await;
    let agent = processes::one(fleet.name(), id, processes::Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    let again = |s: &Seen| matches!(s, Seen::Terminated(_, _, WhatNext::Restart { after: 0 })).then_some(());
    diary.wait_for("the first end", again).await;
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", labor.ready()).await.unwrap();
    fleet.end().await;
    // What the plugin and its host say comes when it comes; whether the cut connection or the
    // death of the process is seen first is open too.
    let other = |s: &Seen| matches!(s, Seen::Said(..) | Seen::Disconnected(..) | Seen::Event(..));
    let told: Vec<Seen> = diary.read().into_iter().filter(|s| !other(s)).collect();
    let killed = Cause::Signal { signal: 9 };
    let life = [Seen::Connected(id), Seen::Loaded(id, probe().id()), Seen::Paired(id)];
    let mut expected = vec![Seen::Init];
    expected.extend(life.clone());
    expected.push(Seen::Terminated(id, killed, WhatNext::Restart { after: 0 }));
    expected.extend(life);
    expected.push(Seen::Terminated(id, Cause::Asked, WhatNext::Gone));
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_says_reaches_the_callback_with_its_call() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone())).await;
    labor.call::<_, ()>("events", &3).await.unwrap();
    eventually("three ticks", async || {
        let ticks = diary.read().iter().filter(|s| **s == Seen::Said(labor.id(), "tick".into())).count();
        (ticks == 3).then_some(())
    })
    .await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_state_is_called_and_cast() {
    #[derive(Default)]
    struct Counter {
        paired: usize,
        visits: usize,
    }
    impl Overseer for Counter {
        async fn handle_paired(&mut self, fleet: &Fleet<Self>, labor: &Labor) {
            self.paired += 1;
            // A callback may use the fleet, also to change the state some time later.
            fleet.cast_state(|state| state.visits += 1).unwrap();
            assert_eq!(labor.status().state, overseer::LaborState::Ready);
        }
    }
    let (fleet, _) = TestFleet::with(probes!(Counter::default()), 2).await;
    let seen = |state: &mut Counter| (state.paired, state.visits);
    eventually("both visits", async || (fleet.call_state(seen).await.unwrap() == (2, 2)).then_some(())).await;
    fleet.cast_state(|state| state.visits += 40).unwrap();
    assert_eq!(fleet.call_state(|state| state.visits).await.unwrap(), 42);
    let state = (*fleet).clone();
    fleet.end().await;
    assert!(state.call_state(|_| ()).await.is_err());
    assert!(
        eventually("it has stopped", async || state.cast_state(|_| ()).err()).await
            == overseer::fleet::CastStateError::Stopped(overseer::fleet::Stopped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_may_start_a_labor_for_one_that_ended() {
    struct Replaces;
    impl Overseer for Replaces {
        async fn handle_terminated(&mut self, fleet: &Fleet<Self>, _: &Labor, _: &Cause, _: WhatNext) {
            // Refused when the fleet stops.
            let _ = fleet.start_child().await;
        }
    }
    let (fleet, labor) = TestFleet::with_one(probes!(Replaces)).await;
    fleet.terminate_child(labor.id());
    within("end", labor.terminated()).await;
    let another = eventually("another labor", async || fleet.which_children().pop()).await;
    assert_ne!(another.id(), labor.id());
    within("ready", another.ready()).await.unwrap();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_panics_stops_the_fleet_and_leaves_no_node() {
    struct Clumsy;
    impl Overseer for Clumsy {
        async fn handle_event(&mut self, _: &Fleet<Self>, _: &FleetEvent) {
            panic!("this callback is clumsy");
        }
    }
    let (fleet, labors) = TestFleet::with(probes!(Clumsy), 2).await;
    let handle = (*fleet).clone();
    // The end of a plugin host is an event.
    let _: Result<(), _> = labors[0].call("exit", &3).await;
    for labor in &labors {
        let cause = within("end", labor.terminated()).await;
        let Cause::Policy { rule } = &cause else { panic!("{cause:?}") };
        assert!(rule.contains("callback"), "{rule}");
    }
    fleet.ends_by_itself().await;
    let refused = within("an answer", handle.start_child()).await;
    assert!(matches!(refused, Err(overseer::fleet::StartChildError::Stopped(_))), "{refused:?}");
    within("stopping once more", handle.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_that_fails_or_panics_starts_nothing() {
    struct Fails(bool);
    impl Overseer for Fails {
        async fn init(&mut self, fleet: &Fleet<Self>) -> Result<(), BoxError> {
            let _ = fleet.start_child().await?;
            assert!(!self.0, "init is clumsy");
            Err("no bolts".into())
        }
    }
    for (panics, word) in [(false, "no bolts"), (true, "clumsy")] {
        let name = format!("init-fails-{panics}-{}", std::process::id());
        let error = within("an answer", probes!(Fails(panics)).name(&name).start()).await.err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(processes::of(&name.parse().unwrap()), []);
    }
}
