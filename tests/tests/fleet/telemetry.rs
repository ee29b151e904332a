//! What labors say by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overseer::telemetry::{Batch, SUBSCRIBER_BATCHES, Telemetry};
use overseer::{Body, Fleet, FleetEvent, Labor, Overseer, Quiet, Record};
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, probes, within};

/// The numbers of the ticks in a batch.
fn ticks(batch: &Batch) -> Vec<u64> {
    let number = |data: &[u8]| serde_json::from_slice(data).unwrap();
    batch
        .iter()
        .filter_map(|r| match r.body {
            Body::Event { name: "tick", data } => Some(number(data)),
            _ => None,
        })
        .collect()
}

async fn tick(labor: &Labor, times: u64) {
    within("an answer", labor.call::<_, ()>("events", &times)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_labor_come_in_order_and_numbered() {
    const TICKS: u64 = 2000;
    let fleet = TestFleet::start(probes!()).await;
    let mut telemetry = fleet.telemetry();
    let labors = fleet.start_children(2).await.unwrap();
    for labor in &labors {
        within("ready", labor.ready()).await.unwrap();
        tick(labor, TICKS).await;
    }
    let mut seen: HashMap<_, (u64, Vec<u64>)> = HashMap::new();
    while seen.len() < 2 || seen.values().any(|(_, ticks)| ticks.len() < TICKS as usize) {
        let batch = within("a batch", telemetry.next()).await.unwrap();
        assert_eq!((batch.generation.0, batch.dropped), (1, 0));
        let (next, all) = seen.entry(batch.labor).or_default();
        assert_eq!(batch.first, *next, "no hole in the numbers");
        assert_eq!(batch.iter().count(), batch.count as usize);
        *next += u64::from(batch.count);
        all.extend(ticks(&batch));
    }
    assert!(seen.values().all(|(_, ticks)| ticks.iter().copied().eq(0..TICKS)));
    assert_eq!(telemetry.missed(), 0);
    fleet.end().await;
    assert!(within("the end of the stream", telemetry.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_records_arrive_as_they_were_said() {
    let fleet = TestFleet::start(probes!()).await;
    let mut telemetry = fleet.telemetry();
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    labor.call::<_, ()>("say", &()).await.unwrap();
    let mut said = Vec::new();
    while said.len() < 4 {
        let batch = within("a batch", telemetry.next()).await.unwrap();
        said.extend(batch.iter().map(|r| match r.body {
            Body::Progress { what, done, total } => format!("{done}/{total} {what}"),
            Body::Metric { name, value } => format!("{name}={value}"),
            Body::Event { name, .. } => name.to_owned(),
            Body::Line { text } => text.to_owned(),
        }));
    }
    // The event of 100 kB is over the limit: counted as dropped, and nothing else is lost.
    assert_eq!(said, ["started", "1/2 steps", "heat=36.6", "well"]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_loses_its_own_oldest_and_sees_how_many() {
    let fleet = TestFleet::start(probes!()).await;
    let (mut quick, mut slow) = (fleet.telemetry(), fleet.telemetry());
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    // More batches than a subscriber may be behind: each call's record goes for itself.
    let total: u64 = SUBSCRIBER_BATCHES as u64 * 2;
    let mut quick_saw = 0;
    for number in 1..=total {
        tick(&labor, 1).await;
        while quick_saw < number {
            quick_saw += ticks(&within("a batch", quick.next()).await.unwrap()).len() as u64;
        }
    }
    assert_eq!((quick_saw, quick.missed()), (total, 0));
    let (mut records, mut last) = (0, 0);
    // One record was said when the plugin started.
    while last < total + 1 {
        let batch = within("a batch", slow.next()).await.unwrap();
        records += u64::from(batch.count);
        last = batch.first + u64::from(batch.count);
    }
    assert!(slow.missed() > 0);
    assert_eq!(records + slow.missed(), last, "what it did not see it knows of");
    fleet.end().await;
}

/// Records that a plugin says in one call, and calls that say them at the same time: what it and the agent
/// keep without dropping.
const BURST: u64 = 5000;
const BURSTS: u64 = 4;

/// How long one who reads waits for a burst of records, all of which come.
async fn burst(labor: &Labor, reads: &mut Telemetry, next: &mut u64) -> Duration {
    let (start, end) = (Instant::now(), *next + BURST * BURSTS);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..BURSTS {
        let labor = labor.clone();
        calls.spawn(async move { tick(&labor, BURST).await });
    }
    while *next < end {
        let batch = within("a batch", reads.next()).await.unwrap();
        assert_eq!((batch.first, batch.dropped), (*next, 0), "records are lost");
        assert_eq!(batch.iter().count(), batch.count as usize);
        *next += u64::from(batch.count);
    }
    let took = start.elapsed();
    within("the answers", calls.join_all()).await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_do_not_read_slow_nobody_down() {
    const ROUNDS: usize = 9;
    let fleet = TestFleet::start(probes!()).await;
    let mut reads = fleet.telemetry();
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    // One record was said when the plugin started.
    let first = within("a batch", reads.next()).await.unwrap();
    let mut next = first.first + u64::from(first.count);
    let median = async |reads: &mut Telemetry, next: &mut u64| {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            took.push(burst(&labor, reads, next).await);
        }
        took.sort();
        took[ROUNDS / 2]
    };
    let without = median(&mut reads, &mut next).await;
    let mut deaf: Vec<Telemetry> = (0..16).map(|_| fleet.telemetry()).collect();
    // More batches than each of them may be behind: from here on they lose their oldest.
    for _ in 0..=SUBSCRIBER_BATCHES {
        tick(&labor, 1).await;
        next += u64::from(within("a batch", reads.next()).await.unwrap().count);
    }
    let with = median(&mut reads, &mut next).await;
    println!("{} records: {without:?}, and {with:?} beside {} that do not read", BURST * BURSTS, deaf.len());
    assert!(with < without * 3, "{with:?} instead of {without:?}");
    assert_eq!(reads.missed(), 0);
    for deaf in &mut deaf {
        within("a batch", deaf.next()).await.unwrap();
        assert!(deaf.missed() > 0, "it was no further behind than it may be");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_said_twice_when_the_connection_is_cut() {
    let cables = Cables::new(labor!());
    let fleet = TestFleet::start(builder(Quiet, cables.clone())).await;
    let mut telemetry = fleet.telemetry();
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    let mut said = 0;
    for round in 0..30 {
        // The answer may be lost with the connection; what was said must not be.
        let times = 1 + round * 7 % 50;
        let open = labor.start_call("events", times.to_string(), overseer::CallOptions::default()).await;
        if open.is_ok() {
            cables.cut(labor.id());
        }
        eventually("it answers again", async || labor.call::<_, u32>("echo", &1).await.ok()).await;
        tick(&labor, 1).await;
        said += 1;
        drop(open);
    }
    let (mut next, mut single) = (0, 0);
    while single < said {
        let batch = within("a batch", telemetry.next()).await.unwrap();
        assert_eq!((batch.first, batch.dropped), (next, 0), "a hole or an echo in the numbers");
        next += u64::from(batch.count);
        // A run of ticks starts at 0; the last record of all is a run of one.
        single += ticks(&batch).iter().filter(|n| **n == 0).count();
    }
    assert_eq!(telemetry.missed(), 0);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_can_take_is_dropped_and_counted_and_calls_go_on() {
    let fleet = TestFleet::start(probes!()).await;
    let mut telemetry = fleet.telemetry();
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    const FLOOD: u64 = 300_000;
    let flood =
        labor.start_call("events", FLOOD.to_string(), overseer::CallOptions::default()).await.unwrap();
    // Control and calls are never behind telemetry.
    assert_eq!(within("a call", labor.call::<_, u32>("echo", &1)).await.unwrap(), 1);
    within("an answer", flood.answer()).await.unwrap();
    const LAST: u64 = u64::MAX;
    within("an answer", labor.call::<_, ()>("tick", &LAST)).await.unwrap();
    // One was said when the plugin started, and the last by the call after the flood.
    let (total, mut records, mut dropped, mut last) = (FLOOD + 2, 0, 0, 0);
    let mut is_over = false;
    while !is_over {
        let batch = within("a batch", telemetry.next()).await.unwrap();
        records += u64::from(batch.count);
        dropped = dropped.max(batch.dropped);
        last = batch.first + u64::from(batch.count);
        is_over = ticks(&batch).contains(&LAST);
    }
    let missed = telemetry.missed();
    println!("{records} of {total} came, {missed} did not reach us, {dropped} were dropped by the labor");
    assert_eq!(records + missed, last, "every record that has a number came or is counted");
    // What the plugin itself drops gets no number, and is counted all the same.
    assert!(last <= total && last + dropped >= total);
    fleet.end().await;
}

/// Takes nothing until it is let, then counts.
struct Slow {
    gate: Arc<tokio::sync::Semaphore>,
    seen: u64,
    dropped: u64,
    newest: Option<u64>,
}

impl Overseer for Slow {
    async fn handle_telemetry(&mut self, _: &Fleet<Self>, _: &Labor, record: &Record<'_>) {
        self.gate.acquire().await.unwrap().forget();
        self.gate.add_permits(1);
        self.seen += 1;
        if let Body::Event { name: "tick", data } = record.body {
            self.newest = serde_json::from_slice(data).ok();
        }
    }

    async fn handle_event(&mut self, _: &Fleet<Self>, event: &FleetEvent) {
        if let FleetEvent::TelemetryDropped { records } = event {
            self.dropped += records;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_callback_loses_the_oldest_and_is_told_how_many() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let slow = Slow { gate: Arc::clone(&gate), seen: 0, dropped: 0, newest: None };
    let fleet = TestFleet::start(probes!(slow)).await;
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    let mut others = fleet.telemetry();
    // Each goes in a batch of its own, for the next is said after it has come.
    const TICKS: u64 = 600;
    for number in 0..TICKS {
        within("an answer", labor.call::<_, ()>("tick", &number)).await.unwrap();
        within("a batch", others.next()).await.unwrap();
    }
    gate.add_permits(1);
    // One record was said when the plugin started.
    let (seen, dropped) = eventually("all are told or counted", async || {
        let counts = fleet.call_state(|s| (s.seen, s.dropped, s.newest)).await.unwrap();
        (counts.2 == Some(TICKS - 1)).then_some((counts.0, counts.1))
    })
    .await;
    assert_eq!(seen + dropped, TICKS + 1);
    assert!(dropped >= 300, "only {dropped} were dropped");
    fleet.end().await;
}
