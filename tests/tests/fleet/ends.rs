//! Ending, draining, and what a misbehaving plugin may not leave behind.

use std::time::Duration;

use overseer::{CallError, CallErrorCode, CallOptions, Cause, LaborState};
use overseer_tests::{TestFleet, eventually, probes, processes, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_child_is_gone_for_good_and_its_calls_fail_at_once() {
    let (fleet, labors) = TestFleet::with(probes!(), 2).await;
    let [gone, stays] = &labors[..] else { panic!("two were started") };
    let options = CallOptions::default();
    let open = gone.start_call("wait_cancel", "600000", options).await.unwrap();
    fleet.terminate_child(gone.id());
    assert_eq!(within("end", gone.terminated()).await, Cause::Asked);
    let answer = within("an answer", open.answer()).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(fleet.which_children(), std::slice::from_ref(stays));
    let after: Result<u32, _> = gone.call("echo", &1).await;
    assert!(matches!(after, Err(CallError::NotReady { state: LaborState::Terminated, .. })), "{after:?}");
    assert_eq!(stays.call::<_, u32>("echo", &1).await.unwrap(), 1);
    // Once more, and one that never was, change nothing.
    fleet.terminate_child(gone.id());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_labor_finishes_its_call_and_takes_no_new_one() {
    let (fleet, labors) = TestFleet::with(probes!(), 2).await;
    let draining = &labors[0];
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let argument = serde_json::to_vec(&(&marker, 700)).unwrap();
    let open = draining.start_call("mark", argument, CallOptions::default()).await.unwrap();
    // It counts as running once the plugin has it; an echo is answered behind it.
    draining.call::<_, u32>("echo", &1).await.unwrap();
    fleet.drain(draining.id());
    within("draining", draining.wait_for(|s| s.state != LaborState::Ready)).await;
    let refused: Result<u32, _> = draining.call("echo", &1).await;
    match refused {
        Err(CallError::NotReady { .. } | CallError::Answered { code: CallErrorCode::Draining, .. }) => {}
        other => panic!("{other:?}"),
    }
    within("the running call", open.answer()).await.unwrap();
    assert!(marker.exists());
    assert_eq!(within("end", draining.terminated()).await, Cause::Asked);
    // The fleet's own calls go elsewhere meanwhile.
    assert_eq!(fleet.call::<_, u32>("echo", &7).await.unwrap(), 7);
    assert_eq!(fleet.which_children().len(), 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_deadline_whatever_runs() {
    let deadlines =
        overseer::Deadlines { drain: Duration::from_millis(300), ..overseer::Deadlines::default() };
    let (fleet, labor) = TestFleet::with_one(probes!().deadlines(deadlines)).await;
    let open = labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
    fleet.drain_all();
    assert_eq!(within("end", labor.terminated()).await, Cause::Asked);
    assert!(within("an answer", open.answer()).await.is_err());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_stop_is_ended_and_its_labor_too() {
    let deadlines =
        overseer::Deadlines { stop: Duration::from_millis(500), ..overseer::Deadlines::default() };
    let builder = probes!().environment("PROBE_STOP", "hang").deadlines(deadlines);
    let (fleet, labor) = TestFleet::with_one(builder).await;
    fleet.terminate_child(labor.id());
    assert_eq!(within("end", labor.terminated()).await, Cause::Asked);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_forked_goes_with_its_labor_also_when_it_left_group_and_session() {
    let (fleet, labors) = TestFleet::with(probes!(), 2).await;
    let [asked, killed] = &labors[..] else { panic!("two were started") };
    let mut left = Vec::new();
    for labor in [asked, killed] {
        left.push(labor.call::<_, i32>("fork_and_hang", &()).await.unwrap());
        left.push(labor.call::<_, i32>("daemon", &()).await.unwrap());
    }
    assert!(left.iter().all(|pid| processes::lives(*pid)));
    fleet.terminate_child(asked.id());
    within("end", asked.terminated()).await;
    assert!(left[..2].iter().all(|pid| !processes::lives(*pid)), "left by the one that was asked to end");
    let agent = processes::one(fleet.name(), killed.id(), processes::Role::Agent).unwrap();
    processes::signal(agent, rustix::process::Signal::KILL);
    within("the next life", killed.wait_for(|s| s.generation.0 == 2)).await;
    assert!(left[2..].iter().all(|pid| !processes::lives(*pid)), "left by the one that was killed");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_stops_while_its_labors_are_still_starting() {
    let fleet = TestFleet::start(probes!().max_nodes(4)).await;
    let labors = fleet.start_children(4).await.unwrap();
    eventually("one of them has a process", async || (!processes::of(fleet.name()).is_empty()).then_some(()))
        .await;
    fleet.end().await;
    for labor in labors {
        assert_eq!(labor.status().state, LaborState::Terminated);
    }
}
