//! Messages over the limit, of a labor that has paired.

use overseer::{Generation, LaborState, TaskId};
use overseer_protocol::MAX_MESSAGE;
use overseer_protocol::proto::{
    FetchBlobRequest, LogPush, Piece, Report, Telemetry, ToOverseer, order, report,
};
use overseer_tests::peer::{self, Keys};
use overseer_tests::within;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::scene::{Scene, refused};

/// Far over the limit.
const FAR: usize = 16 << 20;

/// A labor that the test plays, paired as an agent pairs.
async fn paired(scene: &Scene) -> (overseer::Labor, Channel) {
    let (labor, document) = scene.played().await;
    let keys = Keys::generate();
    let joined = peer::join(&document, peer::join_request(&document.claim, &keys)).await.unwrap();
    let shown = keys.identity(&joined.identity.unwrap().certificate);
    (labor, peer::reach(&document, Some(shown)).await)
}

fn telemetry(bytes: usize) -> ToOverseer {
    let telemetry = Telemetry { count: 1, records: vec![0; bytes].into(), ..Telemetry::default() };
    ToOverseer { reports: vec![Report { kind: Some(report::Kind::Telemetry(telemetry)) }] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_over_the_limit_ends_its_session_which_says_why() {
    let scene = Scene::open().await;
    let (labor, channel) = paired(&scene).await;
    for bytes in [MAX_MESSAGE, MAX_MESSAGE + 1, FAR] {
        let (reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
        within("it is attached", labor.wait_for(|s| s.state == LaborState::Loading)).await;
        within("room", reports.send(telemetry(bytes))).await.unwrap();
        let ended = within("the end of the session", async {
            loop {
                match orders.message().await {
                    Ok(Some(_)) => {}
                    other => break other.map(drop),
                }
            }
        })
        .await;
        let why = refused(ended, Code::OutOfRange);
        assert!(why.contains("too large") && why.contains(&MAX_MESSAGE.to_string()), "{why}");
        within("nobody takes more", reports.closed()).await;
        within("the session is lost", labor.wait_for(|s| s.state == LaborState::Lost)).await;
        scene.serves().await;
    }
    // What is within it passes, over the same connection.
    let (reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
    reports.send(telemetry(MAX_MESSAGE - 1024)).await.unwrap();
    within("it is acknowledged", async {
        let is_it = |order: &overseer_protocol::proto::Order| {
            matches!(order.kind, Some(order::Kind::TelemetryAck(_)))
        };
        while !orders.message().await.unwrap().unwrap().orders.iter().any(is_it) {}
    })
    .await;
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_message_over_the_limit_ends_its_stream_and_no_other() {
    let scene = Scene::open().await;
    let (labor, channel) = paired(&scene).await;
    let task = TaskId::of_host(labor.id(), Generation::FIRST).to_bytes().to_vec();
    let line = |stream: &str, bytes| LogPush {
        task: task.clone().into(),
        attempt: 1,
        stream: stream.into(),
        data: vec![b'x'; bytes].into(),
        ..LogPush::default()
    };
    let piece = |bytes| Piece { data: vec![7; bytes].into(), ..Piece::default() };
    let mut bulk = peer::bulk(&channel);
    let open = async || {
        let (push, pushes) = mpsc::channel(1);
        let acks = peer::bulk(&channel).push_logs(ReceiverStream::new(pushes)).await.unwrap().into_inner();
        (push, acks)
    };
    let (good, mut good_acks) = open().await;
    good.send(line("good", 5)).await.unwrap();
    assert_eq!(within("an acknowledgement", good_acks.message()).await.unwrap().unwrap().through, 5);

    let (bad, mut bad_acks) = open().await;
    for bytes in [5, FAR] {
        bad.send(line("bad", bytes)).await.unwrap();
    }
    assert_eq!(within("an acknowledgement", bad_acks.message()).await.unwrap().unwrap().through, 5);
    let why = refused(within("the end of the log", bad_acks.message()).await, Code::OutOfRange);
    assert!(why.contains("too large"), "{why}");
    within("nobody takes more", bad.closed()).await;

    let first = bulk.put_blob(tokio_stream::once(piece(FAR)));
    refused(within("an answer", first).await, Code::OutOfRange);
    let later = bulk.put_blob(tokio_stream::iter([piece(1000), piece(FAR)]));
    let why = refused(within("an answer", later).await, Code::Aborted);
    assert!(why.contains("too large"), "{why}");
    assert!(scene.plane.blobs().list().await.unwrap().is_empty(), "half a blob");
    let request = FetchBlobRequest { digest: "0".repeat(FAR) };
    let fetch = bulk.fetch_blob(request);
    refused(within("an answer", fetch).await, Code::OutOfRange);

    // The one that was open all the time goes on, over the same connection.
    good.send(LogPush { offset: 5, ..line("good", 5) }).await.unwrap();
    assert_eq!(within("an acknowledgement", good_acks.message()).await.unwrap().unwrap().through, 10);
    drop((good, good_acks));
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}
