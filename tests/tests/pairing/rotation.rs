//! The authority is changed while labors are there.

use std::time::Duration;

use overseer::authority::Stage;
use overseer::control_plane::RotationError;
use overseer::{CallOptions, ControlPlane};
use overseer_protocol::proto::RenewRequest;
use overseer_tests::peer::{self, Keys};
use overseer_tests::{eventually, within};
use tonic::Code;

use crate::scene::{Scene, refused};

async fn reached(plane: &ControlPlane, stage: Stage) {
    let seen = async || (plane.authority_status().stage == stage).then_some(());
    eventually(stage.name(), seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_disconnected_and_the_old_one_is_worth_nothing_in_the_end() {
    let scene = Scene::open().await;
    let old = scene.authority().await;
    let hour = Duration::from_secs(3600);
    let before = scene.connect_as(&scene.identity()).await;
    // As long as a call is open, its labor stays where it is.
    let call = scene.serving.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
    let status = scene.plane.rotate_authority(Duration::ZERO).await.unwrap();
    assert_eq!(status.stage, Stage::Introduced);
    assert_eq!(status.bundle.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(status.waits_for, [(scene.fleet.name().clone(), scene.serving.id())]);
    let again = scene.plane.rotate_authority(Duration::ZERO).await.unwrap_err();
    assert!(matches!(again, RotationError::UnderWay(Stage::Introduced)), "{again}");

    // One that knows both from the beginning.
    let during = scene.fleet.start_child().await.unwrap();
    within("it is ready", during.ready()).await.unwrap();
    let waits_for = scene.plane.authority_status().waits_for;
    assert_eq!(waits_for, [(scene.fleet.name().clone(), scene.serving.id())]);

    call.canceller().cancel();
    reached(&scene.plane, Stage::Switched).await;
    reached(&scene.plane, Stage::Settled).await;
    let status = scene.plane.authority_status();
    assert_eq!((status.waits_for, status.bundle.matches("BEGIN CERTIFICATE").count()), (vec![], 1));

    // What was open is asked again, what is new does not get in.
    let renewal = RenewRequest { csr: Keys::generate().request.into() };
    let message = refused(peer::session(&before).renew(renewal).await, Code::Unauthenticated);
    assert!(message.contains("given up"), "{message}");
    let shown = Keys::generate().issued(&old, &scene.identity(), hour);
    let endpoint = &scene.plane.endpoints()[0];
    assert!(peer::dial(endpoint, old.certificate(), Some(shown)).await.is_err());

    let after = scene.fleet.start_child().await.unwrap();
    within("it is ready", after.ready()).await.unwrap();
    // The labor that was there all the time has the same life.
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_outlives_the_process_that_began_it() {
    let directory = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder().data_directory(directory.path()).start().await.unwrap();
    let begun = plane.rotate_authority(Duration::ZERO).await.unwrap();
    within("the shutdown", plane.shutdown()).await;
    drop(plane);
    let plane = eventually("the directory is free", async || {
        ControlPlane::builder().data_directory(directory.path()).start().await.ok()
    })
    .await;
    reached(&plane, Stage::Settled).await;
    let bundle = plane.authority_status().bundle;
    assert!(begun.bundle.contains(&bundle) && begun.bundle != bundle);
    within("the shutdown", plane.shutdown()).await;
}
