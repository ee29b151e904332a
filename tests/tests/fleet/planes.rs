//! What fleets have in common, and what stays on the disk.

use std::process::{Command, Stdio};

use overseer::control_plane::ControlPlaneError;
use overseer::fleet::StartError;
use overseer::{CallError, ControlPlane};
use overseer_tests::{TestFleet, eventually, peer, probes, within};

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_share_a_control_plane_and_know_nothing_of_each_other() {
    let plane = ControlPlane::embedded().await.unwrap();
    let (one, first) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    let (two, second) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    let taken = probes!().name(one.name().as_str()).control_plane(&plane).start().await;
    assert!(matches!(taken, Err(StartError::NameTaken(_))));
    // The one that has the name goes on as before: it is found by labors that join.
    let third = one.start_child().await.unwrap();
    within("a labor gets ready", third.ready()).await.unwrap();
    assert!(one.labor(second.id()).is_none());
    two.terminate_child(first.id());
    assert_eq!(first.call::<_, u32>("echo", &1).await.unwrap(), 1);
    one.end().await;
    assert_eq!(second.call::<_, u32>("echo", &2).await.unwrap(), 2);
    // Its name is free again.
    let again = TestFleet::start(probes!().name("another").control_plane(&plane)).await;
    again.end().await;
    two.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_on_other_machines_come_over_tcp() {
    let plane = ControlPlane::builder().listen("127.0.0.1:0".parse().unwrap()).start().await.unwrap();
    assert_eq!(plane.endpoints().len(), 2);
    let (fleet, labors) = TestFleet::with(probes!().control_plane(&plane), 2).await;
    assert_eq!(labors.len(), 2);
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_is_kept_and_has_one_owner_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let open = || ControlPlane::builder().data_directory(&data).start();
    let plane = open().await.unwrap();
    let authority = peer::authority_of(&plane).await;
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    // Another opener, in this process and in another one, is refused and changes nothing.
    let refused = open().await.err().unwrap();
    assert!(matches!(refused, ControlPlaneError::DataDir(_) | ControlPlaneError::Store(_)), "{refused:?}");
    let other = Command::new(env!("CARGO_BIN_EXE_owner")).arg(&data).stdin(Stdio::null()).output().unwrap();
    assert!(!other.status.success());
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(said.contains("store.redb") || said.contains("another process"), "{said}");
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    let key = format!("claims/labor/{}", labor.id());
    assert!(plane.store().get(&key).await.unwrap().is_some(), "the claim is kept while the labor lives");
    fleet.end().await;
    assert!(plane.store().get(&key).await.unwrap().is_none(), "and goes with it");
    plane.shutdown().await;
    drop(plane);
    let plane = eventually("the directory is free", async || open().await.ok()).await;
    let same = peer::authority_of(&plane).await;
    assert_eq!(same.certificate(), authority.certificate(), "who was trusted still is");
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = ControlPlane::builder().data_directory(&file).start().await.err().unwrap();
    assert!(error.to_string().contains("not a directory"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = ControlPlane::builder().listen(address).start().await.err().unwrap();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_works_also_below_a_very_long_path() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("x".repeat(120));
    let plane = ControlPlane::builder().data_directory(&data).start().await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_shuts_down_waits_for_nobody_who_only_holds_a_connection() {
    let plane = ControlPlane::builder().listen("127.0.0.1:0".parse().unwrap()).start().await.unwrap();
    let overseer_protocol::Endpoint::Tcp(address) = plane.endpoints()[1].clone() else { panic!("no TCP") };
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    fleet.end().await;
    within("the shutdown", plane.shutdown()).await;
    let refused: Result<u32, _> = labor.call("echo", &1).await;
    assert!(matches!(refused, Err(CallError::NotReady { .. })));
    drop(silent);
}
