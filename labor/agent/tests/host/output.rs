use std::time::Duration;

use overseer_labor::host::HostOutput;
use overseer_plugin::record::{Body, Records};
use overseer_protocol::Cause;

use crate::harness::{LONG, probe, spec, start, start_with};

/// Counts the records and drops of everything said, and hands each record to `each`.
fn records(said: &[HostOutput], mut each: impl FnMut(Body<'_>)) -> (u64, u64) {
    let (mut counted, mut dropped_in_all) = (0, 0);
    for output in said {
        if let HostOutput::Telemetry { count, dropped, records } = output {
            let mut here = 0;
            for record in Records::new(records) {
                each(record.unwrap().body);
                here += 1;
            }
            assert_eq!(here, u64::from(*count));
            counted += here;
            dropped_in_all += dropped;
        }
    }
    (counted, dropped_in_all)
}

#[tokio::test]
async fn telemetry_comes_in_order_and_before_the_result() {
    let mut probe = start(probe(), &[]).await;
    probe.call("events", "5000").await.unwrap();
    let mut numbers = Vec::new();
    let (counted, dropped) = records(&probe.said, |body| {
        if let Body::Event { name: "tick", data } = body {
            numbers.push(serde_json::from_slice::<u64>(data).unwrap());
        }
    });
    assert_eq!((counted, dropped), (5001, 0));
    assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_kind_of_telemetry_arrives_and_what_is_too_large_is_counted() {
    let mut probe = start(probe(), &[]).await;
    probe.call("say", "").await.unwrap();
    let mut seen = Vec::new();
    let (_, dropped) = records(&probe.said, |body| seen.push(format!("{body:?}")));
    assert_eq!(
        seen[1..],
        [
            "Progress { what: \"steps\", done: 1, total: 2 }",
            "Metric { name: \"heat\", value: 36.6 }",
            "Line { text: \"well\" }"
        ]
    );
    assert_eq!(dropped, 1);
}

#[tokio::test]
async fn telemetry_alone_does_not_wait_for_a_call() {
    let mut probe = start(probe(), &[]).await;
    probe.send("wait_cancel", "60000");
    probe.event("waits").await;
}

#[tokio::test]
async fn telemetry_for_a_slow_receiver_is_dropped_oldest_first_and_counted() {
    let (spec, directory) = spec(probe(), &[]);
    let mut probe = start_with(spec, directory, 2).await.unwrap();
    let call = probe.send("events", "1000000");
    // Until this test reads again, nothing is taken; the health check comes through all the same.
    probe.host.health().await.unwrap();
    let wait = tokio::time::timeout(Duration::from_millis(500), std::future::pending::<()>());
    assert!(wait.await.is_err());
    probe.result(call).await.unwrap();
    let mut last = 0;
    let (counted, dropped) = records(&probe.said, |body| {
        if let Body::Event { name: "tick", data } = body {
            last = serde_json::from_slice::<u64>(data).unwrap();
        }
    });
    assert_eq!(counted + dropped, 1_000_001);
    assert_eq!(last, 999_999);
}

#[tokio::test]
async fn logs_are_complete_and_before_the_result() {
    let mut probe = start(probe(), &[]).await;
    let bytes = 8 * 1024 * 1024;
    let call = probe.send("log", bytes.to_string());
    probe.result(call).await.unwrap();
    assert_eq!(probe.log(Some(call), "step").len(), bytes);
}

#[tokio::test]
async fn a_slow_receiver_holds_up_logs_and_nothing_else() {
    let (spec, directory) = spec(probe(), &[]);
    let mut probe = start_with(spec, directory, 1).await.unwrap();
    let bytes = 8 * 1024 * 1024;
    let log = probe.send("log", bytes.to_string());
    for _ in 0..20 {
        probe.host.health().await.unwrap();
    }
    let echo = probe.send("echo", "past the logs");
    // The echo is behind what the window let through, at most; the log's call has not ended.
    let mut read = 0;
    loop {
        match tokio::time::timeout(LONG, probe.output.recv()).await.unwrap().unwrap() {
            HostOutput::Log { data, .. } => read += data.len(),
            HostOutput::Result { id, outcome } => {
                assert_eq!(id, echo);
                outcome.unwrap();
                break;
            }
            _ => {}
        }
    }
    assert!(read <= 2 * overseer_plugin::frame::LOG_WINDOW, "{read} bytes of logs before the answer");
    probe.result(log).await.unwrap();
    assert_eq!(read + probe.log(Some(log), "step").len(), bytes);
}

#[tokio::test]
async fn what_a_host_prints_is_complete_up_to_its_end() {
    let mut probe = start(probe(), &[("PROBE_START", "loud")]).await;
    probe.call("print", "3000000").await.unwrap();
    probe.send("print", "50000");
    probe.call("panic", "\"last words\"").await.unwrap_err();
    assert_eq!(probe.host.stop().await, Cause::Asked);
    assert_eq!(probe.ended().await, Cause::Asked);
    let printed = probe.log(None, "stdout");
    assert_eq!(printed.matches('p').count() - "stopped".matches('p').count(), 1024 * 1024 + 3_050_000);
    assert!(probe.log(None, "stderr").contains("last words"));
}
