//! What a control plane says of itself.

use std::collections::BTreeSet;

use overseer::local::Local;
use overseer::metrics::{Format, METRICS, Page};
use overseer::{CallOptions, ControlPlane, Retry, TaskOptions};
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, builder, eventually, labor, processes, within};
use rustix::process::Signal;

/// The value of a sample: the metric, and parts of its labels.
pub(crate) fn value(page: &Page, name: &str, labels: &[&str]) -> f64 {
    let text = page.text(Format::Prometheus);
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name).unwrap_or("x");
        rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
    };
    let found: Vec<&str> = text.lines().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:#?} in {text}");
    found[0].rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fleet_does_is_counted_and_every_metric_is_there() {
    let plane = ControlPlane::embedded().await.unwrap();
    let probes = builder(overseer::Quiet, Local::with_program(labor!())).control_plane(&plane);
    let (fleet, labor) = TestFleet::with_one(probes).await;
    let name = format!("fleet=\"{}\"", fleet.name());
    let value = |metric: &str, labels: &[&str]| {
        let all: Vec<&str> = labels.iter().copied().chain([name.as_str()]).collect();
        value(&plane.metrics(), metric, &all)
    };

    labor.call::<_, String>("echo", "x").await.unwrap();
    fleet.call::<_, String>("echo", "x").await.unwrap();
    fleet.call::<_, ()>("fail", "no bolts").await.unwrap_err();
    drop(labor.start_call("wait_cancel", "60000", CallOptions::default()).await.unwrap());
    fleet.cast("echo", "x").await.unwrap();
    assert_eq!(value("overseer_calls_total", &["outcome=\"ok\""]), 2.0);
    assert_eq!(value("overseer_calls_total", &["outcome=\"answered\""]), 1.0);
    assert_eq!(value("overseer_calls_total", &["outcome=\"abandoned\""]), 1.0);
    assert_eq!(value("overseer_call_seconds_count", &[]), 3.0);
    assert_eq!(value("overseer_casts_total", &[]), 1.0);
    assert_eq!(value("overseer_labors", &["state=\"ready\""]), 1.0);
    assert_eq!(value("overseer_sessions", &[]), 1.0);
    assert_eq!(value("overseer_labor_start_seconds_count", &[]), 1.0);
    for phase in ["requested", "booting", "joining", "connected", "loaded"] {
        let phase = format!("phase=\"{phase}\"");
        assert_eq!(value("overseer_labor_phase_seconds_count", &[&phase]), 1.0, "{phase}");
    }

    labor.call::<_, ()>("events", &500).await.unwrap();
    eventually("telemetry is counted", async || {
        (value("overseer_telemetry_records_total", &[]) >= 500.0).then_some(())
    })
    .await;
    let bytes: u64 = labor.call("log", &3000).await.unwrap();
    eventually("logs are counted", async || {
        (self::value(&plane.metrics(), "overseer_log_bytes_total", &[]) >= bytes as f64).then_some(())
    })
    .await;

    let done = fleet.submit("echo", "x").await.unwrap();
    within("a result", done.result::<String>()).await.unwrap();
    let lost = fleet.submit_bytes("wait_cancel", "600000", TaskOptions::default().retry(Retry::never()));
    let lost = lost.await.unwrap();
    eventually("it runs", async || (value("overseer_tasks", &["state=\"running\""]) == 1.0).then_some(()))
        .await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    within("the task fails", lost.result_bytes()).await.unwrap_err();
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", labor.ready()).await.unwrap();
    assert_eq!(value("overseer_labor_ends_total", &["cause=\"signal\""]), 1.0);
    assert_eq!(value("overseer_labor_restarts_total", &[]), 1.0);
    assert_eq!(value("overseer_labor_starts_total", &[]), 2.0);
    assert_eq!(value("overseer_task_attempts_lost_total", &[]), 1.0);
    for (to, n) in [("queued", 2.0), ("running", 2.0), ("done", 1.0), ("failed", 1.0)] {
        assert_eq!(value("overseer_task_transitions_total", &[&format!("to=\"{to}\"")]), n, "{to}");
    }
    for state in ["queued", "running"] {
        assert_eq!(value("overseer_tasks", &[&format!("state=\"{state}\"")]), 0.0, "{state}");
    }
    assert_eq!(value("overseer_task_queue_seconds_count", &[]), 2.0);
    assert_eq!(value("overseer_task_run_seconds_count", &[]), 2.0);
    eventually("heartbeats are counted", async || {
        (value("overseer_heartbeats_received_total", &[]) > 0.0).then_some(())
    })
    .await;
    eventually("nothing waits for the actors", async || {
        let waits = |actor| value("overseer_actor_mailbox", &[&format!("actor=\"{actor}\"")]);
        (["fleet", "tasks", "callbacks"].into_iter().map(waits).sum::<f64>() == 0.0).then_some(())
    })
    .await;
    fleet.reconcile(false).await.unwrap();
    assert_eq!(value("overseer_reconcile_passes_total", &["result=\"done\""]), 1.0);

    let page = plane.metrics();
    assert_eq!(self::value(&page, "overseer_joins_accepted_total", &[]), 2.0);
    assert!(self::value(&page, "overseer_store_commits_total", &[]) > 0.0);
    assert!(self::value(&page, "process_resident_memory_bytes", &[]) > 1e6);
    let exposed: BTreeSet<&str> = page.names().collect();
    let documented: BTreeSet<&str> = METRICS.iter().map(|row| row.name).collect();
    assert_eq!(exposed, documented);
    // Neither labors nor tasks make samples of their own.
    let text = page.text(Format::Prometheus);
    assert!(!text.contains(&labor.id().to_string()) && !text.contains(&done.id().to_string()), "{text}");

    let fleet_name = fleet.name().clone();
    fleet.end().await;
    // What was counted stays, and what is gone is not there any more.
    let text = plane.metrics().text(Format::Prometheus);
    assert!(text.contains(&format!("overseer_labor_starts_total{{fleet=\"{fleet_name}\"}} 2\n")), "{text}");
    assert!(!text.contains("overseer_labors{"), "{text}");
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_refuses_is_counted() {
    let plane = ControlPlane::embedded().await.unwrap();
    let probes = builder(overseer::Quiet, Local::with_program(labor!())).control_plane(&plane);
    let (fleet, labor) = TestFleet::with_one(probes).await;
    let mut open = Vec::new();
    let refused = loop {
        match labor.start_call("wait_cancel", "600000", CallOptions::default()).await {
            Ok(call) => open.push(call),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), "call.overloaded");
    let page = plane.metrics();
    assert_eq!(value(&page, "overseer_queue_refused_total", &["queue=\"session_calls\""]), 1.0);
    assert_eq!(value(&page, "overseer_calls_total", &["outcome=\"overloaded\""]), 1.0);
    assert_eq!(value(&page, "overseer_calls_open", &[]), open.len() as f64);
    drop(open);
    fleet.end().await;
    plane.shutdown().await;
}
