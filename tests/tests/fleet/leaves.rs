//! A fleet that is left: its labors and tasks go on under the one that takes its name next.

use std::time::Duration;

use overseer::fleet::StartChildError;
use overseer::{CallError, CallOptions, ControlPlane, Fleet, SubmitError, TaskOptions, TaskState};
use overseer_tests::{eventually, probes, within};

async fn start(plane: &ControlPlane, name: &str) -> Fleet {
    probes!().name(name).control_plane(plane).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_and_tasks_of_a_fleet_that_is_left_go_on_under_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let plane = ControlPlane::builder().data_directory(&data).served(true).start().await.unwrap();
    let name = format!("left-{}", std::process::id());
    let first = start(&plane, &name).await;
    let labor = first.start_child().await.unwrap();
    within("a labor gets ready", labor.ready()).await.unwrap();
    let host: u32 = labor.call("pid", &()).await.unwrap();
    let task = first.submit_bytes("sleep", "1500", TaskOptions::default()).await.unwrap();
    // Else it is in doubt whether it has gone, and it is given again.
    eventually("it runs", async || {
        let state = task.record().await.unwrap().state;
        matches!(state, TaskState::Running { .. }).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let calling = labor.start_call("wait_cancel", "20000", CallOptions::default()).await.unwrap();

    within("the fleet is left", first.leave()).await;
    let cut = within("an open call is told", calling.answer()).await;
    assert!(matches!(cut, Err(CallError::LaborLost { .. })), "{cut:?}");
    assert!(matches!(first.start_child().await, Err(StartChildError::Stopped(_))));
    let refused = first.submit("echo", &1).await;
    assert!(matches!(refused, Err(SubmitError::Stopped(_))), "{refused:?}");
    // Once more is fine.
    within("it is left already", first.leave()).await;

    // Its labor dials meanwhile, and is not turned away.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let next = start(&plane, &name).await;
    let taken = next.labor(labor.id()).unwrap();
    within("it is found again", taken.ready()).await.unwrap();
    assert_eq!(taken.status().generation, labor.status().generation);
    assert_eq!(taken.call::<_, u32>("pid", &()).await.unwrap(), host);
    let task = next.task(task.id()).await.unwrap();
    within("the task ends", task.result_bytes()).await.unwrap();
    assert_eq!(task.record().await.unwrap().attempts, 1);
    within("it stops", next.stop()).await;
    assert!(next.which_children().is_empty());
    within("the plane ends", plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_that_end_with_their_process_are_ended_by_leaving_too() {
    let plane = ControlPlane::embedded().await.unwrap();
    let fleet = probes!().control_plane(&plane).start().await.unwrap();
    let labor = fleet.start_child().await.unwrap();
    within("a labor gets ready", labor.ready()).await.unwrap();
    within("it is left", fleet.leave()).await;
    within("the labor has ended", labor.terminated()).await;
    plane.shutdown().await;
}
