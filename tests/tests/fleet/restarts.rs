//! What dies is replaced, as the fleet's policy says.

use std::time::Duration;

use overseer::fleet::StartChildError;
use overseer::{CallError, CallOptions, Cause, Escalation, FleetEvent, LaborState, Restart};
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, probes, processes, within};
use rustix::process::Signal;

use crate::callbacks::{Diary, Seen};

fn kill(fleet: &overseer::FleetName, labor: &overseer::Labor, signal: Signal) {
    let agent = processes::one(fleet, labor.id(), Role::Agent).expect("it has an agent");
    processes::signal(agent, signal);
}

const KILLED: Cause = Cause::Signal { signal: 9 };

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_replaced_and_its_handle_works_again() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let before: u32 = labor.call("pid", &()).await.unwrap();
    let open = labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
    kill(fleet.name(), &labor, Signal::KILL);
    let lost = within("the open call fails", open.answer()).await;
    assert!(matches!(lost, Err(CallError::LaborLost { .. })), "{lost:?}");
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", labor.ready()).await.unwrap();
    let after: u32 = labor.call("pid", &()).await.unwrap();
    assert_ne!(before, after);
    let ends: Vec<_> = labor.history().into_iter().filter(|e| e.state == LaborState::Backoff).collect();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].cause, Some(KILLED));
    assert_eq!(fleet.count_children().await.unwrap().total, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_and_a_transient_labor_are_replaced_after_a_crash_and_a_temporary_one_is_not() {
    for (restart, again) in
        [(Restart::Permanent, true), (Restart::Transient, true), (Restart::Temporary, false)]
    {
        let (fleet, labor) = TestFleet::with_one(probes!().restart(restart)).await;
        kill(fleet.name(), &labor, Signal::KILL);
        if again {
            within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
            within("ready again", labor.ready()).await.unwrap();
        } else {
            assert_eq!(within("end", labor.terminated()).await, KILLED);
            assert_eq!(labor.status().generation.0, 1);
        }
        // Nobody is replaced who was asked to end.
        fleet.terminate_all();
        within("end", labor.terminated()).await;
        assert_eq!(fleet.count_children().await.unwrap().total, 0);
        fleet.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_goes_is_drained_and_replaced() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone())).await;
    let argument = serde_json::to_vec(&400).unwrap();
    let open = labor.start_call("sleep", argument, CallOptions::default()).await.unwrap();
    labor.call::<_, u32>("echo", &1).await.unwrap();
    // As a machine does that shuts down.
    kill(fleet.name(), &labor, Signal::TERM);
    within("the running call is finished", open.answer()).await.unwrap();
    let going = |s: &Seen| match s {
        Seen::Event(FleetEvent::Going { labor, cause }) => Some((labor.id(), cause.clone())),
        _ => None,
    };
    let (who, cause) = diary.wait_for("the notice", going).await;
    assert_eq!(who, labor.id());
    assert!(matches!(cause, Cause::Reclaimed { .. }), "{cause:?}");
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", labor.ready()).await.unwrap();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_ends_too_often_is_given_up_and_the_others_go_on() {
    let diary = Diary::default();
    let builder = probes!(diary.clone()).intensity(1, Duration::from_secs(3600));
    let (fleet, labors) = TestFleet::with(builder, 2).await;
    let [weak, strong] = &labors[..] else { panic!("two were started") };
    kill(fleet.name(), weak, Signal::KILL);
    within("the next life", weak.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", weak.ready()).await.unwrap();
    kill(fleet.name(), weak, Signal::KILL);
    let cause = within("given up", weak.terminated()).await;
    let Cause::Policy { rule } = &cause else { panic!("{cause:?}") };
    assert!(rule.contains("1 restarts within 3600 s"), "{rule}");
    let escalated = |s: &Seen| match s {
        Seen::Event(FleetEvent::Escalated { labor, cause }) => Some((labor.id(), cause.clone())),
        _ => None,
    };
    assert_eq!(diary.wait_for("the escalation", escalated).await, (weak.id(), KILLED));
    assert_eq!(strong.call::<_, u32>("echo", &1).await.unwrap(), 1);
    assert_eq!(fleet.count_children().await.unwrap().total, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escalation_may_stop_the_fleet() {
    let diary = Diary::default();
    let builder =
        probes!(diary.clone()).intensity(0, Duration::from_secs(3600)).escalation(Escalation::StopFleet);
    let (fleet, labors) = TestFleet::with(builder, 2).await;
    let handle = (*fleet).clone();
    kill(fleet.name(), &labors[0], Signal::KILL);
    for labor in &labors {
        assert!(matches!(within("end", labor.terminated()).await, Cause::Policy { .. }));
    }
    let refused = within("an answer", handle.start_child()).await;
    assert!(matches!(refused, Err(StartChildError::Stopped(_))), "{refused:?}");
    fleet.ends_by_itself().await;
    let Some(Cause::Policy { rule }) = handle.stopped_by() else { panic!("{:?}", handle.stopped_by()) };
    assert!(rule.contains("more than 0 restarts within 3600 s"), "{rule}");
    assert!(diary.read().iter().any(|s| matches!(s, Seen::Event(FleetEvent::Escalated { .. }))));
}
