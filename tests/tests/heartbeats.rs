//! What a heartbeat costs in allocations, in the agent that sends it and in the server that takes it.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::time::Duration;

use overseer::local::Local;
use overseer::metrics::Format;
use overseer::{ControlPlane, Quiet};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, allocations, builder, within};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// For which is counted. Long enough that what happens beside heartbeats vanishes in them.
const WINDOW: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(10);
/// Most allocations of one heartbeat and its answer in the agent. It has four: a list of reports and one of
/// orders, which messages of the wire format own, and a TLS record each way.
const AGENT: f64 = 6.0;
/// Most of them in the server. It has the same four and a place in the mailbox of the fleet's actor; the rest
/// is what it does beside, such as renewing its lease in the store.
const SERVER: f64 = 12.0;

fn own() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_costs_few_allocations() {
    let directory = tempfile::tempdir().unwrap();
    let plane = ControlPlane::builder().data_directory(directory.path().join("data")).start().await.unwrap();
    let counted = builder(Quiet, Local::with_program(env!("CARGO_BIN_EXE_counted_labor")));
    let (fleet, labor) = TestFleet::with_one(counted.control_plane(&plane).heartbeat(BEAT)).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap().cast_unsigned();
    let heartbeats = || {
        let text = plane.metrics().text(Format::Prometheus);
        let line = text.lines().find(|line| line.starts_with("overseer_heartbeats_received_total{")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let (before, agents, servers) = (heartbeats(), allocations::of(agent), own());
    tokio::time::sleep(WINDOW).await;
    let (servers, agents) = (own() - servers, allocations::of(agent) - agents);
    let beats = heartbeats() - before;
    assert!(beats >= 100.0, "only {beats} heartbeats came");
    let (agents, servers) = (agents as f64 / beats, servers as f64 / beats);
    println!("of {beats} heartbeats each: {agents:.2} allocations in the agent, {servers:.2} in the server");
    assert!(agents < AGENT && servers < SERVER, "{agents:.2} and {servers:.2}");
    fleet.end().await;
    within("the shutdown", plane.shutdown()).await;
}
