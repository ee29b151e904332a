//! What a labor may not ask for, though it is one.

use overseer::release::ReleaseBuilder;
use overseer::{CallOptions, Cause, LaborState, Release, TaskId};
use overseer_protocol::Identity;
use overseer_protocol::proto::{
    FetchBlobRequest, FetchChunksRequest, Heartbeat, LogPush, Piece, ReleaseRequest, Report, ToOverseer,
    Versions, report,
};
use overseer_tests::peer::{self, Keys};
use overseer_tests::{TestFleet, eventually, probe, probe_library, probes, within};
use tonic::Code;

use crate::scene::{Scene, refused};

fn push(task: TaskId, stream: &str) -> LogPush {
    LogPush {
        task: task.to_bytes().to_vec().into(),
        attempt: 1,
        stream: stream.into(),
        data: b"forged".to_vec().into(),
        ..LogPush::default()
    }
}

/// The answer to one push.
async fn pushed(channel: &tonic::transport::Channel, push: LogPush) -> Result<u64, tonic::Status> {
    let pushes = tokio_stream::once(push);
    let mut acks = peer::bulk(channel).push_logs(pushes).await?.into_inner();
    let ack = within("an answer", acks.message()).await?;
    Ok(ack.expect("an answer").through)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_a_hello_that_fits() {
    let scene = Scene::open().await;
    let (labor, _) = scene.played().await;
    let identity = Identity { labor: labor.id(), ..scene.identity() };
    let channel = scene.connect_as(&identity).await;
    let beat = Report { kind: Some(report::Kind::Heartbeat(Heartbeat::default())) };
    for first in [vec![beat.clone()], vec![beat, peer::hello()], vec![], vec![Report { kind: None }]] {
        let answer = within("an answer", peer::attach(&channel, first)).await;
        let message = refused(answer, Code::InvalidArgument);
        assert!(message.contains("hello"), "{message}");
    }
    let changed = |change: fn(&mut overseer_protocol::proto::Hello)| {
        let Some(report::Kind::Hello(mut hello)) = peer::hello().kind else { panic!("no hello") };
        change(&mut hello);
        vec![Report { kind: Some(report::Kind::Hello(hello)) }]
    };
    let newer = changed(|h| h.versions = Some(Versions { oldest: 2, newest: 9 }));
    let message = refused(peer::attach(&channel, newer).await, Code::FailedPrecondition);
    assert!(message.contains("upgrade the Overseer"), "{message}");
    let facts = changed(|h| h.facts = b"none".to_vec().into());
    let message = refused(peer::attach(&channel, facts).await, Code::InvalidArgument);
    assert!(message.contains("facts"), "{message}");
    // One that says nothing at all is given up.
    let (silent, never) = tokio::sync::mpsc::channel::<ToOverseer>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(never);
    let answer = within("an answer", peer::session(&channel).attach(stream)).await;
    refused(answer, Code::DeadlineExceeded);
    drop(silent);
    assert_eq!(labor.status().state, LaborState::Booting, "none of that was an attachment");
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_makes_no_sense_costs_nobody_but_its_labor() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let keys = Keys::generate();
    let joined = peer::join(&document, peer::join_request(&document.claim, &keys)).await.unwrap();
    let shown = keys.identity(&joined.identity.unwrap().certificate);
    let channel = peer::reach(&document, Some(shown)).await;
    let (reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
    let first = within("an order", orders.message()).await.unwrap().unwrap();
    assert!(!first.orders.is_empty());
    use overseer_protocol::proto::{CallResult, Telemetry, call_result::Outcome};
    let result = |outcome| report::Kind::Result(CallResult { id: 12345, outcome, ..Default::default() });
    let telemetry = |first_seq, count| {
        report::Kind::Telemetry(Telemetry {
            first_seq,
            count,
            dropped: u64::MAX,
            records: vec![0xff; 9].into(),
        })
    };
    let nonsense = [
        None,
        peer::hello().kind,
        // Nobody has called it.
        Some(result(None)),
        Some(result(Some(Outcome::Ok(b"1".to_vec().into())))),
        Some(result(Some(Outcome::OkBlob("../../etc/passwd".into())))),
        Some(telemetry(u64::MAX, u32::MAX)),
        Some(telemetry(0, 0)),
    ];
    let reports_of = |kind| ToOverseer { reports: vec![Report { kind }] };
    for kind in nonsense {
        reports.send(reports_of(kind)).await.unwrap();
    }
    let release = scene.fleet.release().unwrap().id().to_string();
    // A labor that says it cannot load is ended with what it says, though that is no cause of ours.
    let failed = overseer_protocol::proto::LoadFailed { cause: b"{\xff".to_vec().into(), release };
    reports.send(reports_of(Some(report::Kind::LoadFailed(failed)))).await.unwrap();
    let life = within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    assert!(life.generation.0 == 2);
    let ends = labor.history().into_iter().find(|e| e.state == LaborState::Backoff).unwrap();
    assert!(matches!(ends.cause, Some(Cause::Unhealthy { .. })), "{:?}", ends.cause);
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_a_task_that_is_not_its_own_are_refused() {
    let scene = Scene::open().await;
    let (labor, _) = scene.played().await;
    let identity = Identity { labor: labor.id(), ..scene.identity() };
    let channel = scene.connect_as(&identity).await;
    let open = scene.serving.start_call("echo", "1", CallOptions::default()).await.unwrap();
    let foreign = [
        open.task(),
        TaskId::of_host(scene.serving.id(), overseer::Generation(1)),
        TaskId::of_host(labor.id(), overseer::Generation(2)),
        TaskId(0),
    ];
    for task in foreign {
        let message = refused(pushed(&channel, push(task, "stdout")).await, Code::PermissionDenied);
        assert!(message.contains("not this labor's"), "{message}");
    }
    scene.wrote(&["WARN", &labor.id().to_string(), "not this labor's"]).await;
    let own = TaskId::of_host(labor.id(), overseer::Generation::FIRST);
    for name in ["../escape", "", ".hidden", "a/b"] {
        refused(pushed(&channel, push(own, name)).await, Code::InvalidArgument);
    }
    let nothing = LogPush { task: vec![1, 2, 3].into(), ..push(own, "stdout") };
    refused(pushed(&channel, nothing).await, Code::PermissionDenied);
    let overflow = LogPush { offset: u64::MAX, ..push(own, "overflow") };
    assert!(pushed(&channel, overflow).await.is_err());
    assert_eq!(pushed(&channel, push(own, "stdout")).await.unwrap(), 6);
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_fetches_the_release_of_its_fleet_and_no_other() {
    let scene = Scene::open().await;
    let other = Release::pack(ReleaseBuilder::plugin("another", "2.0.0", probe_library())).unwrap();
    let neighbours = TestFleet::start(probes!().release(other.clone()).control_plane(&scene.plane)).await;
    let channel = scene.connect_as(&scene.identity()).await;
    let mut bulk = peer::bulk(&channel);
    for release in [other.id().to_string(), "0".repeat(64), "../../etc/passwd".into(), String::new()] {
        let index = bulk.release_index(ReleaseRequest { release: release.clone() }).await;
        let message = refused(index, Code::NotFound);
        assert!(message.contains("runs no release"), "{message}");
        let chunks = bulk.fetch_chunks(FetchChunksRequest { release, chunks: vec![] }).await;
        refused(chunks, Code::NotFound);
    }
    let ours = probe().id().to_string();
    let index = bulk.release_index(ReleaseRequest { release: ours.clone() }).await.unwrap();
    assert!(!index.into_inner().index.is_empty());
    for chunk in [vec![0; 32], vec![0; 31], vec![]] {
        let request = FetchChunksRequest { release: ours.clone(), chunks: vec![chunk.into()] };
        refused(bulk.fetch_chunks(request).await, Code::NotFound);
    }
    neighbours.end().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_asked_for_by_a_good_digest_and_put_whole_or_not_at_all() {
    let scene = Scene::open().await;
    let channel = scene.connect_as(&scene.identity()).await;
    let mut bulk = peer::bulk(&channel);
    for digest in ["", "xyz", "../../../etc/passwd", &"A".repeat(64)] {
        let answer = bulk.fetch_blob(FetchBlobRequest { digest: digest.into() }).await;
        refused(answer, Code::InvalidArgument);
    }
    refused(bulk.fetch_blob(FetchBlobRequest { digest: "a".repeat(64) }).await, Code::NotFound);
    refused(bulk.put_blob(tokio_stream::empty()).await, Code::InvalidArgument);
    // Half a blob is none.
    let half = Piece { data: b"half".to_vec().into(), ..Piece::default() };
    let answer = bulk.put_blob(tokio_stream::once(half)).await;
    assert!(answer.is_err(), "{answer:?}");
    let kept = eventually("an answer", async || scene.plane.blobs().list().await.ok()).await;
    assert!(kept.is_empty(), "{kept:?}");
    let whole = Piece { data: b"whole".to_vec().into(), last: true, ..Piece::default() };
    let put = bulk.put_blob(tokio_stream::once(whole)).await.unwrap().into_inner();
    assert_eq!(put.size, 5);
    assert!(bulk.fetch_blob(FetchBlobRequest { digest: put.digest }).await.is_ok());
    scene.close().await;
}
