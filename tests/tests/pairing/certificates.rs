//! Certificates that do not make their holder a labor of today.

use std::time::Duration;

use overseer::{ControlPlane, Generation, LaborId, TaskId};
use overseer_protocol::Identity;
use overseer_protocol::proto::{
    self, FetchBlobRequest, Heartbeat, LogPush, Piece, ReleaseRequest, RenewRequest, Report, ToOverseer,
    order, report,
};
use overseer_tests::peer::{self, Keys};
use overseer_tests::processes::{self, Role};
use overseer_tests::{eventually, within};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::scene::{Scene, refused};

/// What each service answers on this connection.
async fn tries(channel: &Channel) -> [(&'static str, Result<(), Status>); 5] {
    let release = ReleaseRequest { release: "0".repeat(64) };
    let blob = FetchBlobRequest { digest: "0".repeat(64) };
    let renewal = RenewRequest { csr: Keys::generate().request.into() };
    let logs = tokio_stream::empty();
    [
        ("attach", peer::attach(channel, vec![peer::hello()]).await.map(drop)),
        ("renew", peer::session(channel).renew(renewal).await.map(drop)),
        ("release_index", peer::bulk(channel).release_index(release).await.map(drop)),
        ("fetch_blob", peer::bulk(channel).fetch_blob(blob).await.map(drop)),
        ("push_logs", peer::bulk(channel).push_logs(logs).await.map(drop)),
    ]
}

async fn all_refused(channel: &Channel, code: Code, word: &str) {
    for (what, answer) in within("answers", tries(channel)).await {
        let message = refused(answer, code);
        assert!(message.contains(word), "{what}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_join_answers() {
    let scene = Scene::open().await;
    let document = scene.actors.document(scene.serving.id()).await;
    let channel = peer::reach(&document, None).await;
    all_refused(&channel, Code::Unauthenticated, "no client certificate").await;
    scene.wrote(&["WARN", "no client certificate"]).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_does_not_get_past_the_handshake() {
    let scene = Scene::open().await;
    let stranger = ControlPlane::embedded().await.unwrap();
    let strange = peer::authority_of(&stranger).await;
    // It says all the right things.
    let shown = Keys::generate().issued(&strange, &scene.identity(), Duration::from_secs(3600));
    let ours = scene.authority().await;
    for endpoint in scene.plane.endpoints() {
        match peer::dial(endpoint, ours.certificate(), Some(shown.clone())).await {
            Err(_) => {}
            Ok(channel) => {
                for (what, answer) in within("answers", tries(&channel)).await {
                    assert!(answer.is_err(), "{what} answered a stranger");
                }
            }
        }
        scene.serves().await;
    }
    // And an agent does not talk to an Overseer of another authority.
    assert!(peer::dial(&scene.plane.endpoints()[0], strange.certificate(), None).await.is_err());
    stranger.shutdown().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_run_out_is_refused_also_on_an_open_connection() {
    let scene = Scene::open().await;
    let authority = scene.authority().await;
    let endpoint = &scene.plane.endpoints()[0];
    let short = Keys::generate().issued(&authority, &scene.identity(), Duration::from_secs(3));
    let channel = peer::dial(endpoint, authority.certificate(), Some(short.clone())).await.unwrap();
    // Good for now: asked for what is not there, by one who may ask.
    let blob = || FetchBlobRequest { digest: "0".repeat(64) };
    let now = peer::bulk(&channel).fetch_blob(blob()).await;
    refused(now, Code::NotFound);
    eventually("it has run out", async || {
        let answer = peer::bulk(&channel).fetch_blob(blob()).await;
        (answer.unwrap_err().code() == Code::Unauthenticated).then_some(())
    })
    .await;
    all_refused(&channel, Code::Unauthenticated, "run out").await;
    scene.wrote(&["WARN", "run out", &scene.serving.id().to_string()]).await;
    // A new connection does not even get there.
    if let Ok(channel) = peer::dial(endpoint, authority.certificate(), Some(short)).await {
        for (what, answer) in within("answers", tries(&channel)).await {
            assert!(answer.is_err(), "{what} answered a certificate that has run out");
        }
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_ends_with_its_certificate() {
    let scene = Scene::open().await;
    let (labor, _) = scene.played().await;
    let authority = scene.authority().await;
    let identity = Identity { labor: labor.id(), ..scene.identity() };
    let short = Keys::generate().issued(&authority, &identity, Duration::from_secs(3));
    let endpoint = &scene.plane.endpoints()[0];
    let channel = peer::dial(endpoint, authority.certificate(), Some(short)).await.unwrap();
    let (_reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
    let ended = within("the end of the session", async {
        loop {
            match orders.message().await {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    })
    .await;
    let message = refused(ended, Code::Unauthenticated);
    assert!(message.contains("run out"), "{message}");
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_outlives_its_certificate_once_that_was_renewed() {
    let scene = Scene::open().await;
    let (labor, _) = scene.played().await;
    let authority = scene.authority().await;
    let identity = Identity { labor: labor.id(), ..scene.identity() };
    let short = Keys::generate().issued(&authority, &identity, Duration::from_secs(3));
    let endpoint = &scene.plane.endpoints()[0];
    let channel = peer::dial(endpoint, authority.certificate(), Some(short)).await.unwrap();
    let (reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
    let renewal = RenewRequest { csr: Keys::generate().request.into() };
    peer::session(&channel).renew(renewal).await.unwrap();
    // Whatever else is asked over this connection is refused, for it shows the old one.
    eventually("it has run out", async || {
        let blob = FetchBlobRequest { digest: "0".repeat(64) };
        let answer = peer::bulk(&channel).fetch_blob(blob).await;
        (answer.unwrap_err().code() == Code::Unauthenticated).then_some(())
    })
    .await;
    let beat = report::Kind::Heartbeat(Heartbeat { seq: 77, ..Heartbeat::default() });
    reports.send(ToOverseer { reports: vec![Report { kind: Some(beat) }] }).await.unwrap();
    let is_ours = |o: proto::Order| matches!(o.kind, Some(order::Kind::Lease(l)) if l.seq == 77);
    within("a lease", async {
        while !orders.message().await.unwrap().unwrap().orders.into_iter().any(is_ours) {}
    })
    .await;
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_bulk_streams_end_with_their_certificate() {
    let scene = Scene::open().await;
    let authority = scene.authority().await;
    let bytes = std::io::Cursor::new(vec![7; 8 << 20]);
    let blob = scene.plane.blobs().put(Box::pin(bytes), 8 << 20).await.unwrap();
    let short = Keys::generate().issued(&authority, &scene.identity(), Duration::from_secs(3));
    let endpoint = &scene.plane.endpoints()[0];
    // A connection for each, so that none has to wait for another's window.
    let dial = async || peer::dial(endpoint, authority.certificate(), Some(short.clone())).await.unwrap();
    let (fetching, putting, pushing) = (dial().await, dial().await, dial().await);

    let request = FetchBlobRequest { digest: blob.digest };
    let mut pieces = peer::bulk(&fetching).fetch_blob(request).await.unwrap().into_inner();
    assert!(!pieces.message().await.unwrap().unwrap().data.is_empty());

    let (put, puts) = tokio::sync::mpsc::channel(1);
    put.send(Piece { data: vec![7; 1000].into(), ..Piece::default() }).await.unwrap();
    let puts = tokio_stream::wrappers::ReceiverStream::new(puts);
    let put_answer = tokio::spawn(async move { peer::bulk(&putting).put_blob(puts).await });

    let (push, pushes) = tokio::sync::mpsc::channel(1);
    let pushes = tokio_stream::wrappers::ReceiverStream::new(pushes);
    let mut acks = peer::bulk(&pushing).push_logs(pushes).await.unwrap().into_inner();
    let task = TaskId::of_host(scene.serving.id(), Generation::FIRST);
    let line = LogPush {
        task: task.to_bytes().to_vec().into(),
        attempt: 9,
        stream: "stdout".into(),
        data: b"a line\n".to_vec().into(),
        ..LogPush::default()
    };
    push.send(line).await.unwrap();
    assert_eq!(within("an acknowledgement", acks.message()).await.unwrap().unwrap().through, 7);

    // Whoever is quiet is cut off too, and is told why.
    for ended in [
        within("the end of the logs", acks.message()).await.map(drop),
        within("the end of the blob that is put", put_answer).await.unwrap().map(drop),
    ] {
        let message = refused(ended, Code::Unauthenticated);
        assert!(message.contains("run out"), "{message}");
    }
    within("nobody takes more logs", push.closed()).await;
    within("nobody takes more of a blob", put.closed()).await;
    // It was not read on, so only a little of it has come.
    let mut come = 0;
    let ended = loop {
        match within("the end of the blob that is fetched", pieces.message()).await {
            Ok(Some(piece)) => come += piece.data.len(),
            other => break other.map(drop),
        }
    };
    assert!(refused(ended, Code::Unauthenticated).contains("run out"));
    assert!(come < 8 << 20);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_older_life_of_nobody_or_of_another_fleet_is_refused() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let joined = peer::join(&document, peer::join_request(&document.claim, &Keys::generate())).await;
    assert!(joined.is_ok(), "{joined:?}");
    let ours = Identity { labor: labor.id(), ..scene.identity() };
    let cases = [
        (Identity { generation: Generation(2), ..ours.clone() }, "life 2 of labor"),
        (Identity { generation: Generation(0), ..ours.clone() }, "life 0 of labor"),
        (Identity { labor: LaborId::new(7, 7), ..ours.clone() }, "is over"),
        (Identity { fleet: "another".parse().unwrap(), ..ours.clone() }, "no fleet another"),
    ];
    for (identity, word) in cases {
        let channel = scene.connect_as(&identity).await;
        all_refused(&channel, Code::PermissionDenied, word).await;
        scene.wrote(&["WARN", word, &identity.labor.to_string()]).await;
    }
    // One of a labor that is gone is of an older life too.
    let channel = scene.connect_as(&ours).await;
    scene.fleet.terminate_child(labor.id());
    within("its end", labor.terminated()).await;
    all_refused(&channel, Code::PermissionDenied, "is over").await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_life_that_was_replaced_is_refused() {
    let scene = Scene::open().await;
    let first = scene.connect_as(&scene.identity()).await;
    let agent = processes::one(scene.fleet.name(), scene.serving.id(), Role::Agent).unwrap();
    processes::signal(agent, rustix::process::Signal::KILL);
    within("the next life", scene.serving.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", scene.serving.ready()).await.unwrap();
    all_refused(&first, Code::PermissionDenied, "life 1 of labor").await;
    // It did not disturb the life of today.
    assert_eq!(scene.serving.call::<_, u32>("echo", &1).await.unwrap(), 1);
    assert_eq!(scene.serving.status().generation.0, 2);
    let Scene { plane, fleet, .. } = scene;
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_says_who_its_holder_is_whatever_the_request_says() {
    let scene = Scene::open().await;
    let channel = scene.connect_as(&scene.identity()).await;
    let keys = Keys::generate();
    let renewal = RenewRequest { csr: keys.request.clone().into() };
    let renewed = peer::session(&channel).renew(renewal).await.unwrap().into_inner();
    let shown = keys.identity(&renewed.certificate);
    let endpoint = &scene.plane.endpoints()[0];
    let channel = peer::dial(endpoint, &renewed.authorities, Some(shown)).await.unwrap();
    let blob = FetchBlobRequest { digest: "0".repeat(64) };
    refused(peer::bulk(&channel).fetch_blob(blob).await, Code::NotFound);
    let bad = RenewRequest { csr: b"none".to_vec().into() };
    refused(peer::session(&channel).renew(bad).await, Code::InvalidArgument);
    scene.close().await;
}
