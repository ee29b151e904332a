//! Records of one labor, as a subscriber gets them: in order, acknowledged, every one counted.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use overseer::local::Local;
use overseer::telemetry::Telemetry;
use overseer::{BoxError, CallOptions, Labor};
use tokio::task::JoinSet;

use crate::bench::{Bench, ready};
use crate::peers::recorded;
use crate::row::{Row, Unit, millis};

/// Records that the plugin says in one call: what it and the agent keep without dropping.
const BURST: u64 = 5000;
/// Calls that say records at the same time: what the plugin runs at once.
const CALLS: usize = 4;
const ROUNDS: usize = 20;
/// Records that are said one by one.
const ALONE: usize = 100;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let fleet = bench.fleet(Local::new()).await?;
    let mut telemetry = fleet.telemetry();
    let labor = ready(&fleet, 1).await?.remove(0);
    let mut samples = Vec::with_capacity(ROUNDS);
    // The record that the plugin starts with.
    let mut next = telemetry.next().await.map_or(0, |batch| batch.first + u64::from(batch.count));
    for _ in 0..ROUNDS {
        let end = next + BURST * CALLS as u64;
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for _ in 0..CALLS {
            let labor = labor.clone();
            let payload = BURST.to_string();
            calls.spawn(async move { labor.call_bytes("events", payload, CallOptions::default()).await });
        }
        while next < end {
            let batch = telemetry.next().await.ok_or("the fleet ended")?;
            if batch.first != next || batch.dropped > 0 {
                return Err(format!("records {next} to {} were dropped", batch.first).into());
            }
            if batch.iter().count() as u32 != batch.count {
                return Err("a batch holds other records than it says".into());
            }
            next += u64::from(batch.count);
        }
        samples.push((BURST * CALLS as u64) as f64 / start.elapsed().as_secs_f64());
        while let Some(answer) = calls.join_next().await {
            answer??;
        }
    }
    let alone = alone(&labor, &mut telemetry).await?;
    fleet.stop().await;
    let row = Row::new("telemetry, one labor", Unit::PerSecond, samples);
    Ok(vec![
        row.against(recorded("Elixir", "telemetry")).goal(3e6),
        Row::new("one record alone, to us", Unit::Milliseconds, alone).goal(5.0),
    ])
}

/// Milliseconds from when a record was said that nothing else travels with.
async fn alone(labor: &Labor, telemetry: &mut Telemetry) -> Result<Vec<f64>, BoxError> {
    let mut samples = Vec::with_capacity(ALONE);
    while samples.len() < ALONE {
        labor.call_bytes("tick_alone", "", CallOptions::default()).await?;
        let batch = telemetry.next().await.ok_or("the fleet ended")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let said = batch.iter().next().ok_or("an empty batch")?.micros;
        samples.push(millis(now.saturating_sub(Duration::from_micros(said))));
    }
    Ok(samples)
}
