//! A network that swallows everything and closes nothing.

use std::time::Duration;

use overseer::logs::LogPiece;
use overseer::{Attempt, CallError, CallOptions, LaborState, LogStream, Quiet, TaskId};
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, within};
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_blobs_of_a_labor_do_not_hang_in_a_network_that_swallows_everything() {
    let cables = Cables::new(labor!());
    let ms = Duration::from_millis;
    let builder = builder(Quiet, cables.clone());
    let builder = builder.heartbeat(ms(100)).silence(ms(1000)).lease(ms(6000)).grace(ms(3_600_000));
    let (fleet, labor) = TestFleet::with_one(builder).await;
    let task = TaskId::of_host(labor.id(), labor.status().generation);
    let name = LogStream { task, attempt: Attempt(1), stream: "stdout".into() };
    let mut log = fleet.logs(name, 0).await.unwrap();
    let mut read = async |bytes: usize| {
        let mut seen = 0;
        while seen < bytes {
            match within("a piece of the log", log.next()).await.unwrap() {
                Some(LogPiece::Data { bytes, .. }) => seen += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
    };
    labor.call::<_, ()>("print", &1000).await.unwrap();
    read(1000).await;
    // A blob whose end the plugin still has to write.
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let argument = serde_json::to_vec(&pipe).unwrap();
    let put = labor.start_call("put_blob", argument, CallOptions::default()).await.unwrap();
    let mut writing = tokio::fs::OpenOptions::new();
    let opening = writing.write(true).open(&pipe);
    let mut blob = within("the blob is read", opening).await.unwrap();
    within("some of it is read", blob.write_all(&[7; 1 << 20])).await.unwrap();

    assert_eq!(cables.swallow(labor.id()), 2, "the session and the bulk connection");
    let lost = within("the call is lost", put.answer()).await;
    assert!(matches!(lost, Err(CallError::LaborLost { .. })), "{lost:?}");
    within("it is lost", labor.wait_for(|s| s.state == LaborState::Lost)).await;
    within("the labor dials anew", labor.ready()).await.unwrap();
    // What is written from now on does not wait for what is dead.
    labor.call::<_, ()>("print", &1000).await.unwrap();
    read(1000).await;
    // Nor for the blob, which still does: it cannot move to another connection.
    assert_eq!(cables.swallowing(labor.id()), 1);
    // The agent gives up what can never be answered.
    eventually("the dead connections are closed", async || {
        (cables.swallowing(labor.id()) == 0).then_some(())
    })
    .await;
    drop(blob);
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}
