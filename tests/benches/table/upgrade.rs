//! Fifty labors change their release while they are called 5,000 times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use overseer::local::Local;
use overseer::{BoxError, CallOptions, Fleet, UpgradeOptions};

use crate::bench::{Bench, ready};
use crate::row::{Against, Row, Unit, millis};

const LABORS: usize = 50;
/// Callers, each of which calls every `EVERY`: 5,000 calls a second in all.
const CALLERS: u32 = 50;
const EVERY: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_secs(5);

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let (one, two) = (bench.release_with("one", 4096)?, bench.release_with("two", 4096)?);
    let fleet = bench.builder(Local::new(), one).start().await?;
    ready(&fleet, LABORS).await?;

    let load = Load::on(&fleet);
    tokio::time::sleep(QUIET).await;
    let quiet = load.end().await?;

    let load = Load::on(&fleet);
    let start = Instant::now();
    let options = UpgradeOptions { watch: Duration::ZERO, ..UpgradeOptions::default() };
    fleet.upgrade_with(Some(two), options).await?.done().await?;
    let took = start.elapsed();
    let busy = load.end().await?;
    fleet.stop().await;

    let p99 = |samples: &[f64]| worst_of_a_hundred(samples);
    let (quiet_p99, busy_p99) = (p99(&quiet), p99(&busy));
    let ms = Unit::Milliseconds;
    Ok(vec![
        Row::new("upgrade of 50 under 5k/s", ms, vec![millis(took)]),
        // Every call was answered, or there would be no row.
        Row::new("call meanwhile, p99", ms, vec![busy_p99])
            .against(Against::measured("quiet", ms, vec![quiet_p99]))
            .goal((50.0 * quiet_p99).round() / 10.0),
    ])
}

/// The value that 99 of 100 keep.
fn worst_of_a_hundred(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    let at = samples.len().saturating_sub(1) * 99 / 100;
    samples.get(at).copied().unwrap_or(f64::NAN)
}

/// Calls at their times, whether those before are answered or not.
struct Load {
    over: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Result<Vec<f64>, BoxError>>>,
}

impl Load {
    fn on(fleet: &Fleet) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let callers = (0..CALLERS).map(|number| {
            // Not all at the same moment.
            let first = tokio::time::Instant::now() + EVERY * number / CALLERS;
            tokio::spawn(call(fleet.clone(), Arc::clone(&over), first))
        });
        Self { callers: callers.collect(), over }
    }

    /// Milliseconds of each call, from when it was to begin.
    async fn end(self) -> Result<Vec<f64>, BoxError> {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await??);
        }
        Ok(all)
    }
}

async fn call(
    fleet: Fleet,
    over: Arc<AtomicBool>,
    first: tokio::time::Instant,
) -> Result<Vec<f64>, BoxError> {
    let mut samples = Vec::new();
    let mut at = first;
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep_until(at).await;
        // The timer's own lateness is none of the call.
        let start = Instant::now();
        fleet.call_bytes("echo", &b"0123456789"[..], CallOptions::default()).await?;
        samples.push(millis(start.elapsed()));
        at += EVERY;
    }
    Ok(samples)
}
