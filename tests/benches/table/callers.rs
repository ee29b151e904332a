//! So many callers, each with one request open at a time: how many are answered in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overseer::BoxError;
use tokio::task::JoinSet;

/// One sample is the rate over such a time.
const SLICE: Duration = Duration::from_millis(100);
const SLICES: usize = 20;

/// Answers a second to so many callers.
pub(crate) async fn rates<C, F>(open: usize, call: C) -> Result<Vec<f64>, BoxError>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let answered = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..open {
        let (call, answered, done) = (call.clone(), Arc::clone(&answered), Arc::clone(&done));
        tasks.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                call().await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), BoxError>(())
        });
    }
    let samples = slices(&answered).await;
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(samples)
}

/// The rate at which a count grows, in each slice but the first.
pub(crate) async fn slices(count: &AtomicU64) -> Vec<f64> {
    let mut every = tokio::time::interval(SLICE);
    let mut samples = Vec::with_capacity(SLICES);
    every.tick().await;
    let (mut before, mut at) = (count.load(Ordering::Relaxed), Instant::now());
    for number in 0..=SLICES {
        every.tick().await;
        let (now, time) = (count.load(Ordering::Relaxed), Instant::now());
        if number > 0 {
            samples.push((now - before) as f64 / (time - at).as_secs_f64());
        }
        (before, at) = (now, time);
    }
    samples
}
