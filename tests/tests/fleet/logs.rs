//! Log streams: complete, by offset, live.

use overseer::logs::{LogPiece, LogReader};
use overseer::{Attempt, CallOptions, ControlPlane, FleetHandle, Labor, LogStream, Quiet, TaskId};
use overseer_tests::processes::{self, Role};
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, probes, within};
use rustix::process::Signal;

async fn follow(fleet: &FleetHandle, stream: LogStream, from: u64) -> LogReader {
    fleet.logs(stream, from).await.unwrap()
}

/// Reads to the end of the stream: how many bytes came, after checking that none was missing.
async fn drain(mut reader: LogReader, from: u64, byte: u8) -> u64 {
    let mut next = from;
    while let Some(piece) = within("a piece of a log", reader.next()).await.unwrap() {
        let LogPiece::Data { offset, bytes } = piece else { panic!("{piece:?}") };
        assert_eq!(offset, next);
        assert!(bytes.iter().all(|b| *b == byte));
        next += bytes.len() as u64;
    }
    next - from
}

async fn log(labor: &Labor, bytes: u64) -> LogStream {
    let open = labor.start_call("log", bytes.to_string(), CallOptions::default()).await.unwrap();
    let stream = open.log("step");
    within("an answer", open.answer()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_logs_is_read_from_any_offset_to_its_end() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let stream = log(&labor, 10_000).await;
    for from in [0, 1, 9_999, 10_000] {
        let reader = follow(&fleet, stream.clone(), from).await;
        assert_eq!(drain(reader, from, b'l').await, 10_000 - from);
    }
    // Another call's stream is another one.
    let other = log(&labor, 5).await;
    assert_ne!(other, stream);
    assert_eq!(drain(follow(&fleet, other, 0).await, 0, b'l').await, 5);
    assert!(fleet.logs(LogStream { stream: "../step".into(), ..stream }, 0).await.is_err());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_are_followed_live_and_arrive_whole() {
    const FLOOD: u64 = 50 << 20;
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let open = labor.start_call("log", FLOOD.to_string(), CallOptions::default()).await.unwrap();
    // Follows before the first byte is there.
    let reader = follow(&fleet, open.log("step"), 0).await;
    let reading = tokio::spawn(drain(reader, 0, b'l'));
    // Calls are not held up by it.
    assert_eq!(within("a call", labor.call::<_, u32>("echo", &1)).await.unwrap(), 1);
    within("an answer", open.answer()).await.unwrap();
    assert_eq!(reading.await.unwrap(), FLOOD);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_and_double_no_byte() {
    const BYTES: u64 = 20 << 20;
    let cables = Cables::new(labor!());
    let (fleet, labor) = TestFleet::with_one(builder(Quiet, cables.clone())).await;
    let open = labor.start_call("log", BYTES.to_string(), CallOptions::default()).await.unwrap();
    let mut reader = follow(&fleet, open.log("step"), 0).await;
    let (mut next, mut cuts) = (0, 0);
    while let Some(piece) = within("a piece of a log", reader.next()).await.unwrap() {
        let LogPiece::Data { offset, bytes } = piece else { panic!("{piece:?}") };
        assert_eq!(offset, next);
        next += bytes.len() as u64;
        if next > (cuts + 1) * (BYTES / 6) {
            cables.cut(labor.id());
            cuts += 1;
        }
    }
    // The call was lost by the first cut, and may have ended where it noticed that.
    assert!(cuts >= 1 && next > 0 && next <= BYTES, "{next} bytes, {cuts} cuts");
    drop(open);
    eventually("it answers again", async || labor.call::<_, u32>("echo", &1).await.ok()).await;
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_prints_is_a_log_of_its_host() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let host = TaskId::of_host(labor.id(), labor.status().generation);
    let name = LogStream { task: host, attempt: Attempt(1), stream: "stdout".into() };
    let mut reader = follow(&fleet, name, 0).await;
    labor.call::<_, ()>("print", &1000).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        let piece = within("a piece", reader.next()).await.unwrap().unwrap();
        let LogPiece::Data { bytes, .. } = piece else { panic!("{piece:?}") };
        seen.extend_from_slice(&bytes);
    }
    assert!(seen.iter().all(|b| *b == b'p'));
    // Its last words are there too when it is asked to end, and then the stream ends.
    fleet.terminate_child(labor.id());
    within("end", labor.terminated()).await;
    while let Some(piece) = within("a piece", reader.next()).await.unwrap() {
        let LogPiece::Data { bytes, .. } = piece else { panic!("{piece:?}") };
        seen.extend_from_slice(&bytes);
    }
    assert_eq!(&seen[1000..], b"stopped\n");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_killed_labor_ends() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let host = TaskId::of_host(labor.id(), labor.status().generation);
    let name = LogStream { task: host, attempt: Attempt(1), stream: "stdout".into() };
    labor.call::<_, ()>("print", &1000).await.unwrap();
    let mut reader = follow(&fleet, name, 0).await;
    let first = within("a piece", reader.next()).await.unwrap();
    assert!(matches!(first, Some(LogPiece::Data { offset: 0, .. })), "{first:?}");
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    // Nobody can say any more where it would have ended; who follows it must not wait for ever.
    while within("the end of the log", reader.next()).await.unwrap().is_some() {}
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_outlive_their_overseer() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let plane = ControlPlane::builder().data_directory(&data).start().await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    let stream = log(&labor, 1000).await;
    assert_eq!(drain(follow(&fleet, stream.clone(), 0).await, 0, b'l').await, 1000);
    fleet.end().await;
    plane.shutdown().await;
    drop(plane);
    let plane = eventually("the directory is free", async || {
        ControlPlane::builder().data_directory(&data).start().await.ok()
    })
    .await;
    let fleet = TestFleet::start(probes!().control_plane(&plane)).await;
    assert_eq!(drain(follow(&fleet, stream, 0).await, 0, b'l').await, 1000);
    fleet.end().await;
    plane.shutdown().await;
}
