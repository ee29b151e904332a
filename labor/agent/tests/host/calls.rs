use bytes::Bytes;
use overseer_labor::host::HostOutput;
use overseer_protocol::CallErrorCode;

use crate::harness::{probe, start};

#[tokio::test]
async fn a_call_gives_what_the_plugin_gives() {
    let mut probe = start(probe(), &[]).await;
    assert_eq!(probe.info.concurrency, 4);
    assert_eq!(probe.call("echo", "hello").await.unwrap(), "hello");
    assert_eq!(probe.call("echo", "").await.unwrap(), "");
    let large = Bytes::from(vec![7; 5_000_000]);
    assert_eq!(probe.call("echo", large.clone()).await.unwrap(), large);
    assert_eq!(probe.call("fail", "\"no bolts\"").await, Err((CallErrorCode::Failed, "no bolts".into())));
    let (code, message) = probe.call("dance", "").await.unwrap_err();
    assert_eq!(code, CallErrorCode::NoMethod);
    assert!(message.contains("dance"), "{message}");
    let (code, message) = probe.call("sleep", "soon").await.unwrap_err();
    assert_eq!(code, CallErrorCode::BadPayload);
    assert!(message.contains("u64"), "{message}");
}

#[tokio::test]
async fn a_panic_costs_one_call_and_says_where() {
    let mut probe = start(probe(), &[]).await;
    let (code, message) = probe.call("panic", "\"no bolts\"").await.unwrap_err();
    assert_eq!(code, CallErrorCode::Panicked);
    assert!(message.contains("no bolts") && message.contains("src/lib.rs:"), "{message}");
    assert!(probe.json::<bool>("panic_apart", "").await);
    assert_eq!(probe.call("echo", "alive").await.unwrap(), "alive");
    probe.host.health().await.unwrap();
}

#[tokio::test]
async fn a_thousand_calls_at_once_all_have_their_own_result() {
    let mut probe = start(probe(), &[]).await;
    let calls: Vec<_> = (0..1000).map(|n| (probe.send("echo", n.to_string()), n.to_string())).collect();
    let mut results = std::collections::BTreeMap::new();
    while results.len() < calls.len() {
        let (id, result) = probe
            .wait_for(|output| match output {
                HostOutput::Result { id, outcome } => Some((*id, outcome.clone().unwrap())),
                _ => None,
            })
            .await;
        assert!(results.insert(id, result).is_none(), "two results of call {id}");
    }
    for (id, expected) in calls {
        assert_eq!(results[&id], expected);
    }
}

#[tokio::test]
async fn a_cancelled_call_ends_and_its_neighbours_do_not() {
    let mut probe = start(probe(), &[]).await;
    let neighbour = probe.send("sleep", "100");
    let call = probe.send("wait_cancel", "60000");
    probe.event("waits").await;
    probe.host.cancel(call);
    assert_eq!(probe.result(call).await.unwrap_err().0, CallErrorCode::Cancelled);
    probe.result(neighbour).await.unwrap();

    let call = probe.send("on_cancel", "");
    probe.event("waits").await;
    probe.host.cancel(call);
    assert_eq!(probe.result(call).await.unwrap(), "\"told\"");

    probe.host.cancel(call);
    probe.host.cancel(999);
    assert_eq!(probe.call("echo", "alive").await.unwrap(), "alive");
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_is_cancelled_without_running() {
    let mut probe = start(probe(), &[]).await;
    let running: Vec<_> = (0..4).map(|_| probe.send("wait_cancel", "60000")).collect();
    let waiting = probe.send("exit", "1");
    probe.host.cancel(waiting);
    let (code, message) = probe.result(waiting).await.unwrap_err();
    assert_eq!(code, CallErrorCode::Cancelled);
    assert!(message.contains("before it began"), "{message}");
    for call in running {
        probe.host.cancel(call);
        assert_eq!(probe.result(call).await.unwrap_err().0, CallErrorCode::Cancelled);
    }
}

#[tokio::test]
async fn health_is_answered_while_every_call_is_busy() {
    let mut probe = start(probe(), &[]).await;
    for _ in 0..8 {
        probe.send("spin", "");
    }
    probe.host.health().await.unwrap();
    let (one, other) = tokio::join!(probe.host.health(), probe.host.health());
    assert_eq!((one, other), (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_cast_has_an_empty_result() {
    let mut probe = start(probe(), &[]).await;
    probe.host.call(77, true, "", "echo", Bytes::from_static(b"hello"));
    assert_eq!(probe.result(77).await.unwrap(), "");
    probe.host.call(78, true, "", "panic", Bytes::from_static(b"\"no bolts\""));
    assert_eq!(probe.result(78).await.unwrap_err().0, CallErrorCode::Panicked);
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_on_both_ways() {
    let mut probe = start(probe(), &[]).await;
    let (code, message) = probe.call("big", "67108865").await.unwrap_err();
    assert_eq!(code, CallErrorCode::TooLarge);
    assert!(message.contains("67108865") && message.contains("blob"), "{message}");
    let (code, message) = probe.call("echo", vec![0; 70 * 1024 * 1024]).await.unwrap_err();
    assert_eq!(code, CallErrorCode::TooLarge);
    assert!(message.contains("blob"), "{message}");
    assert_eq!(probe.call("echo", "alive").await.unwrap(), "alive");
}

#[tokio::test]
async fn blobs_go_through_the_agent() {
    let mut probe = start(probe(), &[]).await;
    let call = probe.send("put_blob", "\"out.bin\"");
    let (request, path) = probe
        .wait_for(|output| match output {
            HostOutput::PutBlob { request, path } => Some((*request, path.clone())),
            _ => None,
        })
        .await;
    assert_eq!(path, probe.directory.path().canonicalize().unwrap().join("out.bin"));
    probe.host.answer_blob(request, Ok(("abc".into(), 5)));
    assert_eq!(probe.result(call).await.unwrap(), "[\"abc\",5]");

    let call = probe.send("get_blob", "[\"abc\",\"in.bin\"]");
    let (request, digest) = probe
        .wait_for(|output| match output {
            HostOutput::GetBlob { request, digest, .. } => Some((*request, digest.clone())),
            _ => None,
        })
        .await;
    assert_eq!(digest, "abc");
    probe.host.answer_blob(request, Err("no such blob".into()));
    assert_eq!(probe.result(call).await, Err((CallErrorCode::Failed, "no such blob".into())));
    probe.host.answer_blob(request, Ok(("late".into(), 0)));
    assert_eq!(probe.call("echo", "alive").await.unwrap(), "alive");
}
