//! Durable tasks: submitted, lost, tried again, attached to.

use std::path::PathBuf;
use std::time::Duration;

use overseer::tasks::{AttemptEnd, Content, TaskRecord};
use overseer::{
    Body, Cause, ControlPlane, LaborState, Quiet, Retry, SubmitError, Task, TaskError, TaskFailure,
    TaskOptions, TaskState,
};
use overseer_protocol::{CallErrorCode, TaskId};
use overseer_tests::processes::Role;
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, probes, processes, within};
use rustix::process::Signal;

async fn failure(task: &Task) -> TaskFailure {
    match within("the task is over", task.result_bytes()).await {
        Err(TaskError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

async fn running(task: &Task) -> TaskRecord {
    eventually("the task runs", async || {
        let record = task.record().await.unwrap();
        matches!(record.state, TaskState::Running { .. }).then_some(record)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_done_once_and_its_result_can_be_asked_for_again() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let task = fleet.submit("echo", &"hello").await.unwrap();
    assert_eq!(within("the result", task.result::<String>()).await.unwrap(), "hello");
    let again = fleet.task(task.id()).await.unwrap();
    assert_eq!(again.result::<String>().await.unwrap(), "hello");
    let record = again.record().await.unwrap();
    assert_eq!(record.attempts, 1);
    assert!(matches!(record.state, TaskState::Done { labor: of, .. } if of == labor.id()), "{record:?}");
    let stranger = fleet.task(TaskId(7)).await;
    assert!(matches!(stranger, Err(TaskError::Unknown(TaskId(7)))), "{stranger:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_a_labor_and_large_payloads_and_results_go_through_the_blobs() {
    let fleet = TestFleet::start(probes!()).await;
    let payload: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let small = fleet.submit("echo", &1).await.unwrap();
    let large = fleet.submit_bytes("echo", payload.clone(), TaskOptions::default()).await.unwrap();
    assert_eq!(fleet.count_tasks().await.unwrap().queued, 2);
    fleet.start_child().await.unwrap();
    assert_eq!(within("the small one", small.result::<u32>()).await.unwrap(), 1);
    assert_eq!(within("the large one", large.result_bytes()).await.unwrap(), payload);
    let record = large.record().await.unwrap();
    assert!(matches!(record.payload, Content::Blob { bytes: 1_000_000, .. }), "{record:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_while_its_labor_is_cut_off_and_is_not_run_again() {
    let cables = Cables::new(labor!());
    let builder = builder(Quiet, cables.clone()).grace(Duration::from_secs(60));
    let (fleet, labor) = TestFleet::with_one(builder).await;
    let directory = tempfile::tempdir().unwrap();
    // One that ends after the cut, and one that ends during it.
    for (name, sleeps, ends_meanwhile) in [("after", 1500u64, false), ("during", 300, true)] {
        let path = directory.path().join(name);
        let mut telemetry = fleet.telemetry();
        let task = fleet.submit("mark", &(&path, sleeps)).await.unwrap();
        // Recorded is not yet on its way: the plugin itself says that it has begun.
        let begun = async {
            while let Some(batch) = telemetry.next().await {
                let marks = |body: &Body<'_>| matches!(body, Body::Event { name: "marks", data } if serde_json::from_slice::<PathBuf>(data).is_ok_and(|of| of == path));
                if batch.iter().any(|record| marks(&record.body)) {
                    return;
                }
            }
        };
        within("it has begun", begun).await;
        cables.pull(labor.id());
        within("lost", labor.wait_for(|s| s.state == LaborState::Lost)).await;
        if ends_meanwhile {
            eventually("it ends", async || path.exists().then_some(())).await;
        }
        cables.mend(labor.id());
        within("its end", task.result_bytes()).await.unwrap();
        let record = task.record().await.unwrap();
        assert_eq!(record.attempts, 1, "{record:?}");
    }
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_labor_that_was_killed_is_run_again_unless_it_must_not_be() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let again = fleet.submit("sleep", &2000).await.unwrap();
    let options = TaskOptions::default().retry(Retry::never());
    let once = fleet.submit_bytes("sleep", "600000", options).await.unwrap();
    running(&again).await;
    running(&once).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    let lost = failure(&once).await;
    assert!(matches!(lost, TaskFailure::Lost { cause: Cause::Signal { signal: 9 } }), "{lost:?}");
    within("its end", again.result_bytes()).await.unwrap();
    let record = again.record().await.unwrap();
    assert_eq!((record.attempts, record.charged), (2, 0));
    assert!(matches!(record.history[0].end, AttemptEnd::Lost { .. }), "{record:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_crashes_its_plugin_is_quarantined_and_its_neighbours_are_done() {
    let (fleet, _labor) = TestFleet::with_one(probes!()).await;
    let neighbour = fleet.submit("sleep", &3000).await.unwrap();
    running(&neighbour).await;
    let poison = fleet.submit("abort", &()).await.unwrap();
    let quarantined = failure(&poison).await;
    assert!(matches!(quarantined, TaskFailure::Quarantined { hosts: 2, .. }), "{quarantined:?}");
    within("the neighbour", neighbour.result_bytes()).await.unwrap();
    assert_eq!(neighbour.record().await.unwrap().charged, 0);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_its_own_is_tried_again_as_often_as_the_task_says() {
    let (fleet, _labor) = TestFleet::with_one(probes!()).await;
    for (retry, attempts) in [(Retry::default(), 1), (Retry::times(2), 3), (Retry::times(2).on([]), 1)] {
        let options = TaskOptions::default().retry(retry);
        let task = fleet.submit_bytes("fail", "\"no bolts\"", options).await.unwrap();
        let failed = failure(&task).await;
        assert!(
            matches!(&failed, TaskFailure::Answered { code: CallErrorCode::Failed, message, .. } if message.contains("no bolts")),
            "{failed:?}"
        );
        assert_eq!(task.record().await.unwrap().attempts, attempts);
    }
    // One that nobody can run is not tried in vain.
    let options = TaskOptions::default().retry(Retry::times(5));
    let unknown = fleet.submit_bytes("no_such_method", "null", options).await.unwrap();
    let failed = failure(&unknown).await;
    assert!(matches!(failed, TaskFailure::Answered { code: CallErrorCode::NoMethod, .. }), "{failed:?}");
    assert_eq!(unknown.record().await.unwrap().attempts, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_can_be_cancelled_while_it_waits_and_while_it_runs() {
    let fleet = TestFleet::start(probes!()).await;
    let waits = fleet.submit("echo", &1).await.unwrap();
    waits.cancel();
    assert_eq!(failure(&waits).await, TaskFailure::Cancelled);
    assert_eq!(waits.record().await.unwrap().attempts, 0);
    fleet.start_child().await.unwrap();
    let runs = fleet.submit("wait_cancel", &600_000).await.unwrap();
    running(&runs).await;
    runs.cancel();
    assert_eq!(failure(&runs).await, TaskFailure::Cancelled);
    runs.cancel();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_task_and_another_body_under_it_is_refused() {
    let (fleet, _labor) = TestFleet::with_one(probes!()).await;
    let keyed = || TaskOptions::default().key("order-1");
    let submits = (0..8).map(|_| fleet.submit_bytes("echo", "1", keyed()));
    let mut ids = Vec::new();
    for submit in submits.map(|s| async { s.await.unwrap().id() }) {
        ids.push(submit.await);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    for (method, payload) in [("echo", "2"), ("sleep", "1")] {
        let other = fleet.submit_bytes(method, payload, keyed()).await.unwrap_err();
        assert!(matches!(&other, SubmitError::KeyConflict { task, .. } if *task == ids[0]), "{other}");
    }
    for bad in ["", "a b", "a\nb", &"x".repeat(129)] {
        let refused = fleet.submit_bytes("echo", "1", TaskOptions::default().key(bad)).await;
        assert!(matches!(refused, Err(SubmitError::BadKey(_))), "{refused:?}");
    }
    let task = fleet.task(ids[0]).await.unwrap();
    assert_eq!(within("its result", task.result::<u32>()).await.unwrap(), 1);
    let late = fleet.submit_bytes("echo", "1", keyed()).await.unwrap();
    assert_eq!(late.id(), ids[0], "also when it is over");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_running_have_deadlines_of_their_own() {
    let fleet = TestFleet::start(probes!()).await;
    let options = TaskOptions::default().queue(Duration::from_millis(200));
    let waits = fleet.submit_bytes("echo", "1", options).await.unwrap();
    let late = failure(&waits).await;
    assert!(matches!(late, TaskFailure::QueueDeadline { waited_ms } if waited_ms >= 200), "{late:?}");
    fleet.start_child().await.unwrap();
    let options = TaskOptions::default().run(Duration::from_millis(200)).retry(Retry::times(1));
    let runs = fleet.submit_bytes("wait_cancel", "600000", options).await.unwrap();
    let late = failure(&runs).await;
    assert!(matches!(late, TaskFailure::Answered { code: CallErrorCode::RunDeadline, .. }), "{late:?}");
    assert_eq!(runs.record().await.unwrap().attempts, 2);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_over_is_removed_when_its_time_is_over() {
    let builder = probes!().task_retention(Duration::ZERO);
    let (fleet, _labor) = TestFleet::with_one(builder).await;
    let options = TaskOptions::default().key("k");
    let task = fleet.submit_bytes("echo", "1", options).await.unwrap();
    // Whoever waits gets it, or learns that it is gone.
    let _ = within("it is over", task.result_bytes()).await;
    assert!(fleet.list_tasks(false, None, 10).await.unwrap().is_empty());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_tasks_are_each_done_by_themselves() {
    let (fleet, _labors) = TestFleet::with(probes!(), 4).await;
    let mut tasks = Vec::new();
    for number in 0..2000u32 {
        tasks.push((number, fleet.submit("echo", &number).await.unwrap()));
    }
    for (number, task) in &tasks {
        assert_eq!(within("a result", task.result::<u32>()).await.unwrap(), *number);
    }
    let count = fleet.count_tasks().await.unwrap();
    assert_eq!(count, overseer::TaskCount::default());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_is_left_running_in_the_store_when_its_fleet_has_stopped() {
    // One that waits for the disk, so that changes are on their way when the last labor ends.
    let directory = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder().data_directory(directory.path()).start().await.unwrap();
    for round in 0..4 {
        let name = format!("stops-{round}-{}", std::process::id());
        let (fleet, _) = TestFleet::with(probes!().name(&name).control_plane(&plane), 3).await;
        let mut tasks = Vec::new();
        for retry in [Retry::never(), Retry::times(3)].into_iter().cycle().take(24) {
            let options = TaskOptions::default().retry(retry);
            tasks.push(fleet.submit_bytes("wait_cancel", "600000", options).await.unwrap());
        }
        if round % 2 == 0 {
            running(&tasks[0]).await;
        }
        let name = fleet.name().clone();
        for process in processes::of(&name) {
            processes::signal(process.pid, Signal::KILL);
        }
        fleet.end().await;
        let left = plane.task_records(&name, false, None, 100).await.unwrap();
        let runs = |record: &&TaskRecord| matches!(record.state, TaskState::Running { .. });
        assert_eq!(left.iter().filter(runs).count(), 0, "round {round}: {left:?}");
        let over = plane.task_records(&name, true, None, 100).await.unwrap();
        assert_eq!(left.len() + over.len(), 24);
    }
    plane.shutdown().await;
}
