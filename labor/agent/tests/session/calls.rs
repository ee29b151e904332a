use overseer_protocol::proto::call_result::Outcome;
use overseer_protocol::proto::{self, order, report};
use overseer_protocol::{CallErrorCode, Cause, INLINE_PAYLOAD, TaskId};
use rustix::process::Signal;

use crate::load::{probe, ready};
use crate::overseer::{Overseer, Seen};

pub fn call(id: u64, method: &str, payload: &[u8]) -> order::Kind {
    order::Kind::Call(plain(id, method, payload))
}

pub fn plain(id: u64, method: &str, payload: &[u8]) -> proto::Call {
    proto::Call { id, method: method.into(), payload: payload.to_vec().into(), ..proto::Call::default() }
}

pub async fn result(overseer: &mut Overseer, id: u64) -> Outcome {
    overseer
        .report(|kind| match kind {
            report::Kind::Result(result) if result.id == id => result.outcome,
            _ => None,
        })
        .await
}

pub async fn failure(overseer: &mut Overseer, id: u64) -> (CallErrorCode, Option<Cause>) {
    match result(overseer, id).await {
        Outcome::Failure(failure) => {
            let cause = (!failure.cause.is_empty()).then(|| Cause::from_bytes(&failure.cause));
            (CallErrorCode::from_wire(failure.code), cause)
        }
        other => panic!("{other:?}"),
    }
}

/// A heartbeat that says so many run.
fn running(wanted: u32) -> impl Fn(report::Kind) -> Option<()> {
    move |kind| match kind {
        report::Kind::Heartbeat(beat) if beat.running == wanted => Some(()),
        _ => None,
    }
}

#[tokio::test]
async fn calls_are_answered_and_telemetry_comes_by_itself() {
    let (mut overseer, _node) = ready(probe()).await;
    overseer.order(call(1, "echo", b"hello"));
    assert_eq!(result(&mut overseer, 1).await, Outcome::Ok(b"hello".to_vec().into()));
    overseer.order(call(2, "nonsense", b""));
    assert_eq!(failure(&mut overseer, 2).await.0, CallErrorCode::NoMethod);
    overseer.order(call(3, "panic", b"\"oh no\""));
    assert_eq!(failure(&mut overseer, 3).await.0, CallErrorCode::Panicked);

    overseer.order(call(4, "events", b"1000"));
    let mut records = 0;
    let mut next = None;
    let mut answered = false;
    overseer
        .report(|kind| {
            match kind {
                report::Kind::Telemetry(batch) => {
                    assert!(next.is_none_or(|next| next == batch.first_seq), "in order");
                    assert_eq!(batch.dropped, 0);
                    next = Some(batch.first_seq + u64::from(batch.count));
                    records += batch.count;
                }
                report::Kind::Result(result) => answered |= result.id == 4,
                _ => {}
            }
            (answered && records >= 1000).then_some(())
        })
        .await;
}

#[tokio::test]
async fn telemetry_that_was_not_acknowledged_is_sent_again_in_the_next_session() {
    let (mut overseer, _node) = ready(probe()).await;
    let batch = |kind| match kind {
        report::Kind::Telemetry(batch) if batch.count > 0 => Some(batch),
        _ => None,
    };
    // The event of the start comes first.
    assert_eq!(overseer.report(batch).await.first_seq, 0);
    overseer.script(|s| s.acknowledges_telemetry = false);
    overseer.order(call(1, "events", b"3"));
    let first = overseer.report(batch).await;
    assert_eq!(first.first_seq, 1);
    overseer.drop_session();
    overseer.script(|s| s.acknowledges_telemetry = true);
    overseer.attached().await;
    assert_eq!(overseer.report(batch).await, first);
}

#[tokio::test]
async fn large_payloads_and_results_go_beside_the_session() {
    let (mut overseer, _node) = ready(probe()).await;
    let large = vec![7u8; INLINE_PAYLOAD * 5 + 3];
    let digest = blake3::hash(&large).to_hex().to_string();
    overseer.script(|s| drop(s.blobs.insert(digest.clone(), large.clone().into())));
    let there = proto::Call { payload_blob: digest.clone(), ..plain(1, "echo", b"") };
    overseer.order(order::Kind::Call(there));
    assert_eq!(result(&mut overseer, 1).await, Outcome::OkBlob(digest));

    let missing = proto::Call { payload_blob: "0".repeat(64), ..plain(2, "echo", b"") };
    overseer.order(order::Kind::Call(missing));
    assert_eq!(failure(&mut overseer, 2).await.0, CallErrorCode::Agent);
}

#[tokio::test]
async fn deadlines_and_cancels_are_kept() {
    let (mut overseer, _node) = ready(probe()).await;
    // All four places are taken.
    let waits: Vec<_> = (1..=4).map(|id| call(id, "wait_cancel", b"60000")).collect();
    overseer.orders(waits);
    overseer.order(order::Kind::Call(proto::Call { queue_ms: 50, ..plain(5, "echo", b"") }));
    overseer.order(call(6, "echo", b""));
    assert_eq!(failure(&mut overseer, 5).await.0, CallErrorCode::QueueDeadline);
    overseer.order(order::Kind::Cancel(proto::Cancel { id: 6 }));
    assert_eq!(failure(&mut overseer, 6).await.0, CallErrorCode::Cancelled);
    overseer.order(order::Kind::Cancel(proto::Cancel { id: 1 }));
    assert_eq!(failure(&mut overseer, 1).await.0, CallErrorCode::Cancelled);
    overseer.order(order::Kind::Call(proto::Call { run_ms: 50, ..plain(7, "wait_cancel", b"60000") }));
    assert_eq!(failure(&mut overseer, 7).await.0, CallErrorCode::RunDeadline);
}

#[tokio::test]
async fn a_call_that_hangs_past_its_deadline_costs_the_host_but_not_the_node() {
    let (mut overseer, _node) = ready(probe()).await;
    let spins = proto::Call { run_ms: 50, ..plain(1, "spin", b"") };
    overseer.orders(vec![order::Kind::Call(spins), call(2, "wait_cancel", b"60000")]);
    let mut failures = Vec::new();
    overseer
        .report(|kind| {
            if let report::Kind::Result(result) = kind
                && let Some(Outcome::Failure(failure)) = result.outcome
            {
                let cause = Cause::from_bytes(&failure.cause);
                assert_eq!(cause.code(), "hung", "{cause}");
                failures.push((result.id, CallErrorCode::from_wire(failure.code)));
            }
            (failures.len() == 2).then_some(())
        })
        .await;
    failures.sort_unstable_by_key(|f| f.0);
    assert_eq!(failures, [(1, CallErrorCode::RunDeadline), (2, CallErrorCode::HostEnded)]);
    crate::load::is_ready(&mut overseer).await;
    overseer.order(call(3, "echo", b"on"));
    assert_eq!(result(&mut overseer, 3).await, Outcome::Ok(b"on".to_vec().into()));
}

#[tokio::test]
async fn a_call_of_a_lost_session_is_stopped_and_forgotten() {
    let (mut overseer, _node) = ready(probe()).await;
    overseer.orders((1..=4).map(|id| call(id, "wait_cancel", b"60000")).collect());
    overseer.report(running(4)).await;
    overseer.drop_session();
    overseer.attached().await;
    // The same numbers again, as those of another session may be.
    overseer.orders((1..=4).map(|id| call(id, "echo", b"new")).collect());
    let mut answered = Vec::new();
    overseer
        .until(|seen| {
            if let Seen::Reported(2, report::Kind::Result(result)) = seen {
                assert_eq!(result.outcome, Some(Outcome::Ok(b"new".to_vec().into())));
                answered.push(result.id);
            }
            (answered.len() == 4).then_some(())
        })
        .await;
    overseer.report(running(0)).await;
}

#[tokio::test]
async fn a_draining_node_finishes_what_runs_and_takes_nothing_new() {
    let (mut overseer, node) = ready(probe()).await;
    overseer.order(call(1, "sleep", b"300"));
    overseer.order(order::Kind::Drain(proto::Drain { deadline_ms: 60_000 }));
    overseer.order(call(2, "echo", b""));
    assert_eq!(failure(&mut overseer, 2).await.0, CallErrorCode::Draining);
    assert!(matches!(result(&mut overseer, 1).await, Outcome::Ok(_)));
    let drained = overseer
        .report(|kind| match kind {
            report::Kind::Drained(drained) => Some(drained.abandoned),
            _ => None,
        })
        .await;
    assert_eq!(drained, 0);
    node.signal(Signal::TERM);
    assert_eq!(node.ended().await.0, 0);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_says_what_it_left() {
    let (mut overseer, _node) = ready(probe()).await;
    overseer.order(call(1, "wait_cancel", b"60000"));
    overseer.order(order::Kind::Drain(proto::Drain { deadline_ms: 50 }));
    let drained = overseer
        .report(|kind| match kind {
            report::Kind::Drained(drained) => Some(drained.abandoned),
            _ => None,
        })
        .await;
    assert_eq!(drained, 1);
}

#[tokio::test]
async fn a_plugin_puts_and_gets_blobs() {
    let (mut overseer, node) = ready(probe()).await;
    let bytes = vec![5u8; 3 * 256 * 1024];
    let file = node.directory.path().join("artifact");
    std::fs::write(&file, &bytes).unwrap();
    overseer.order(call(1, "put_blob", &serde_json::to_vec(&file).unwrap()));
    let digest = blake3::hash(&bytes).to_hex().to_string();
    let expected = serde_json::to_vec(&(&digest, bytes.len())).unwrap();
    assert_eq!(result(&mut overseer, 1).await, Outcome::Ok(expected.into()));

    let copy = node.directory.path().join("copy");
    overseer.order(call(2, "get_blob", &serde_json::to_vec(&(&digest, &copy)).unwrap()));
    assert!(matches!(result(&mut overseer, 2).await, Outcome::Ok(_)));
    assert_eq!(std::fs::read(&copy).unwrap(), bytes);

    // A blob that is damaged on its way leaves no file.
    overseer.script(|s| drop(s.blobs.insert(digest.clone(), b"something else".to_vec().into())));
    let bad = node.directory.path().join("bad");
    overseer.order(call(3, "get_blob", &serde_json::to_vec(&(&digest, &bad)).unwrap()));
    assert_eq!(failure(&mut overseer, 3).await.0, CallErrorCode::Failed);
    let left: Vec<_> = std::fs::read_dir(node.directory.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("bad"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_draining_node_says_so_in_its_next_session_and_says_again_that_it_is_done() {
    let (mut overseer, _node) = ready(probe()).await;
    let drain = || order::Kind::Drain(proto::Drain { deadline_ms: 60_000 });
    overseer.order(drain());
    let drained = |kind| matches!(kind, report::Kind::Drained(_)).then_some(());
    overseer.report(drained).await;
    overseer.drop_session();
    let (_, hello) = overseer.attached().await;
    assert!(hello.draining && hello.ready);
    overseer.order(drain());
    overseer.report(drained).await;
}

#[tokio::test]
async fn an_attempt_of_a_stored_task_outlives_its_session_and_is_forgotten_when_told_so() {
    let (mut overseer, _node) = ready(probe()).await;
    let (first, second) = (TaskId(7), TaskId(8));
    let attempt = |task: TaskId| proto::AttemptRef { task: task.to_bytes().to_vec().into(), attempt: 3 };
    let stored = |id, task: TaskId, method: &str, payload: &'static [u8]| {
        let order::Kind::Call(plain) = call(id, method, payload) else { unreachable!() };
        order::Kind::Call(proto::Call { task: task.to_bytes().to_vec().into(), attempt: 3, ..plain })
    };
    overseer.order(stored(1, first, "sleep", b"300"));
    overseer.order(stored(2, second, "wait_cancel", b"600000"));
    overseer.report(running(2)).await;
    overseer.drop_session();
    overseer.attached().await;
    let held = |kind| match kind {
        report::Kind::Held(held) => Some(held.attempts),
        _ => None,
    };
    assert_eq!(overseer.report(held).await, [attempt(first), attempt(second)]);
    // The same attempt again is the same one.
    overseer.order(stored(9, first, "echo", b"again"));
    let answer = |kind| match kind {
        report::Kind::Result(result) => Some(result),
        _ => None,
    };
    let told = overseer.report(answer).await;
    assert_eq!((told.task, told.attempt), (attempt(first).task, 3));
    assert_eq!(told.outcome, Some(Outcome::Ok(Vec::new().into())));
    // Not forgotten: it is said again over every session.
    overseer.drop_session();
    overseer.attached().await;
    assert_eq!(overseer.report(answer).await.task, attempt(first).task);
    overseer.order(order::Kind::ForgetTask(attempt(first)));
    overseer.order(order::Kind::CancelTask(attempt(second)));
    let cancelled = overseer.report(answer).await;
    assert!(
        matches!(cancelled.outcome, Some(Outcome::Failure(f)) if f.code == CallErrorCode::Cancelled as u32)
    );
    overseer.order(order::Kind::ForgetTask(attempt(second)));
    overseer.report(running(0)).await;
    overseer.drop_session();
    overseer.attached().await;
    assert_eq!(overseer.report(held).await, []);
}
