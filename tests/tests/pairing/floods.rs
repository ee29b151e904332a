//! A labor that says more than any labor has to say.

use overseer_protocol::Identity;
use overseer_protocol::proto::{Heartbeat, HostEvent, Report, ToOverseer, report};
use overseer_tests::{peer, within};
use tonic::Code;

use crate::scene::{Scene, refused};

fn message(kind: report::Kind, times: usize) -> ToOverseer {
    ToOverseer { reports: vec![Report { kind: Some(kind) }; times] }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_floods_with_news_is_cut_off_and_one_that_beats_too_fast_is_not() {
    let scene = Scene::open().await;
    let (labor, _) = scene.played().await;
    let channel = scene.connect_as(&Identity { labor: labor.id(), ..scene.identity() }).await;
    let (reports, mut orders) = peer::attach(&channel, vec![peer::hello()]).await.unwrap();
    let beat = report::Kind::Heartbeat(Heartbeat::default());
    for _ in 0..20 {
        within("room", reports.send(message(beat.clone(), 1000))).await.unwrap();
        scene.serves().await;
    }
    let news = report::Kind::HostEvent(HostEvent { what: "started".into(), ..HostEvent::default() });
    // Beyond the end nobody takes it any more.
    let _ = within("room", reports.send(message(news, 10_000))).await;
    let ended = within("the end of the session", async {
        loop {
            match orders.message().await {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    })
    .await;
    let why = refused(ended, Code::ResourceExhausted);
    assert!(why.contains("too much"), "{why}");
    scene.serves().await;
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}
