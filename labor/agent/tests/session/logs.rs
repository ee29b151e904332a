use std::collections::BTreeMap;
use std::time::Duration;

use overseer_protocol::TaskId;
use overseer_protocol::proto::report;

use crate::calls::call;
use crate::load::{probe, ready};
use crate::overseer::{LONG, Overseer};

#[derive(Debug, Default, PartialEq)]
struct Stream {
    bytes: u64,
    gap: u64,
    eof: bool,
}

/// Takes logs until one stream is complete, and checks that every byte comes in its place.
async fn read_until_eof(overseer: &mut Overseer, task: TaskId, name: &str) -> Stream {
    let mut streams: BTreeMap<(Vec<u8>, u32, String), Stream> = BTreeMap::new();
    loop {
        let push = tokio::time::timeout(LONG, overseer.logs.recv()).await;
        let push = push.expect("the end did not come in time").unwrap();
        let ours = push.task[..] == task.to_bytes() && push.stream == name;
        let key = (push.task.to_vec(), push.attempt, push.stream);
        let stream = streams.entry(key.clone()).or_default();
        assert!(push.offset <= stream.bytes, "a hole at {}", stream.bytes);
        if push.offset == stream.bytes {
            stream.bytes += if push.gap > 0 { push.gap } else { push.data.len() as u64 };
            stream.gap += push.gap;
        }
        stream.eof |= push.eof;
        if ours && stream.eof {
            return streams.remove(&key).unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_call_logs_is_read_to_its_end() {
    let (mut overseer, _node) = ready(probe()).await;
    overseer.order(call(1, "log", b"100000"));
    let stream = read_until_eof(&mut overseer, TaskId::of_call(77, 1), "step").await;
    assert_eq!(stream, Stream { bytes: 100_000, gap: 0, eof: true });
}

#[tokio::test]
async fn what_the_host_prints_is_kept_apart_from_calls() {
    let (mut overseer, node) = ready(probe()).await;
    overseer.order(call(1, "print", b"200000"));
    overseer.report(|kind| matches!(kind, report::Kind::Result(_)).then_some(())).await;
    node.signal(rustix::process::Signal::TERM);
    let identity = crate::overseer::identity();
    let task = TaskId::of_host(identity.labor, identity.generation);
    let stream = read_until_eof(&mut overseer, task, "stdout").await;
    assert!(stream.bytes > 200_000, "with the word that it says when it stops: {stream:?}");
    assert_eq!(stream.gap, 0);
    assert_eq!(node.ended().await.0, 0, "the last bytes are sent before it ends");
}

#[tokio::test]
async fn a_flood_is_spooled_while_the_overseer_does_not_keep_up_and_loses_nothing() {
    let (mut overseer, node) = ready(probe()).await;
    overseer.shared.reads_logs.send_replace(false);
    let bytes = 40 << 20;
    overseer.order(call(1, "log", bytes.to_string().as_bytes()));
    // The call is done while its logs wait on the disk of the node.
    overseer.report(|kind| matches!(kind, report::Kind::Result(_)).then_some(())).await;
    let spooled = || std::fs::read_dir(node.spool()).is_ok_and(|mut files| files.next().is_some());
    // They are written beside the answer, not before it.
    let on_disk = async {
        while !spooled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), on_disk).await.expect("the logs are on the disk");
    assert!(memory_of(node.pid()) < 64 << 20, "{} bytes", memory_of(node.pid()));
    // When it comes back, the connection breaks once more.
    overseer.script(|s| s.breaks_logs = true);
    overseer.shared.reads_logs.send_replace(true);
    let stream = read_until_eof(&mut overseer, TaskId::of_call(77, 1), "step").await;
    assert_eq!(stream, Stream { bytes, gap: 0, eof: true });
}

/// Resident bytes of a process.
fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
