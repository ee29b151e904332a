//! Large payloads and blobs.

use std::path::Path;

use bytes::Bytes;
use overseer::blobs::BlobError;
use overseer::{CallError, CallErrorCode, CallOptions, ControlPlane};
use overseer_tests::{TestFleet, eventually, probes, within};

const MIB: usize = 1024 * 1024;

/// Bytes that do not compress and differ by seed.
fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_and_results_of_any_size_up_to_the_limit_come_back_as_they_went() {
    let directory = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder().data_directory(directory.path().join("data")).start().await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    // Around the size that still travels inside a message, and the largest.
    for size in [0, 1, 256 * 1024, 256 * 1024 + 1, 10 * MIB, 64 * MIB] {
        let payload = noise(size, size as u64);
        let answer =
            within("an answer", labor.call_bytes("echo", payload.clone(), CallOptions::default())).await;
        assert!(answer.unwrap() == payload, "{size} bytes came back as others");
    }
    // Nothing of them stays on the disk.
    let payloads = directory.path().join("data/payloads");
    eventually("no payload is kept", async || (files(&payloads) == 0).then_some(())).await;
    fleet.end().await;
    plane.shutdown().await;
}

fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let blobs = |e: std::fs::DirEntry| match e.path().is_dir() {
        true => files(&e.path()),
        false => usize::from(e.file_name() != "lock"),
    };
    entries.map(blobs).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_that_nobody_waits_for_stays_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder().data_directory(directory.path().join("data")).start().await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    for _ in 0..20 {
        // Dropped at any time between the call and its answer.
        let open = labor.start_call("big", MIB.to_string(), CallOptions::default()).await.unwrap();
        let answer = tokio::spawn(open.answer());
        labor.call::<_, u32>("echo", &1).await.unwrap();
        answer.abort();
    }
    let payloads = directory.path().join("data/payloads");
    eventually("no result is kept", async || (files(&payloads) == 0).then_some(())).await;
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_limit_is_refused_on_either_way() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let over = 64 * MIB + 1;
    let sent = labor.call_bytes("echo", vec![0; over], CallOptions::default()).await;
    assert_eq!(sent.unwrap_err(), CallError::TooLarge { size: over, limit: overseer_protocol::MAX_PAYLOAD });
    let result = labor.call_bytes("big", over.to_string(), CallOptions::default());
    match within("an answer", result).await {
        Err(CallError::Answered { code: CallErrorCode::TooLarge, message, .. }) => {
            assert!(message.contains("blob"), "{message}");
        }
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    let cast = labor.cast("echo", &"x".repeat(MIB)).await;
    assert!(matches!(cast, Err(CallError::TooLarge { .. })), "{cast:?}");
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_large_payload_may_be_on_its_way_many_times() {
    let (fleet, _) = TestFleet::with(probes!(), 2).await;
    let payload = noise(MIB, 5);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let (fleet, payload) = ((*fleet).clone(), payload.clone());
            tokio::spawn(async move { fleet.call_bytes("echo", payload, CallOptions::default()).await })
        })
        .collect();
    for call in calls {
        let answer = within("an answer", call).await.unwrap();
        assert!(answer.unwrap() == payload);
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_puts_a_blob_that_others_get_and_the_overseer_reads() {
    let plane = ControlPlane::embedded().await.unwrap();
    let (fleet, labors) = TestFleet::with(probes!().control_plane(&plane), 2).await;
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let bytes = noise(3 * MIB, 9);
    std::fs::write(&from, &bytes).unwrap();
    let (digest, size): (String, u64) = labors[0].call("put_blob", &from).await.unwrap();
    assert_eq!(size, bytes.len() as u64);
    let got: u64 = labors[1].call("get_blob", &(&digest, &to)).await.unwrap();
    assert_eq!(got, size);
    assert!(std::fs::read(&to).unwrap() == bytes);
    // It outlives its call and its labor.
    fleet.terminate_all();
    for labor in &labors {
        within("end", labor.terminated()).await;
    }
    let (info, _) = plane.blobs().get(&digest).await.unwrap();
    assert_eq!(info.size, size);
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_there_is_an_error_that_says_so() {
    let plane = ControlPlane::embedded().await.unwrap();
    let (fleet, labor) = TestFleet::with_one(probes!().control_plane(&plane)).await;
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    let missing = "0".repeat(64);
    for (digest, word) in [(missing.as_str(), "no blob"), ("../../etc/passwd", "no digest")] {
        let answer: Result<u64, _> = labor.call("get_blob", &(digest, &to)).await;
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert!(!to.exists());
    }
    let put: Result<(String, u64), _> = labor.call("put_blob", &directory.path().join("nothing")).await;
    let error = put.unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    assert!(matches!(plane.blobs().get(&missing).await, Err(BlobError::Missing(_))));
    fleet.end().await;
    plane.shutdown().await;
}
