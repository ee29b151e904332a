//! A large release that cannot be compressed: from connected to loaded, which is unpacked and
//! verified. The first time on a host, as a second version, and again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use overseer::local::Local;
use overseer::metrics::Format;
use overseer::{BoxError, Fleet, LaborState, Release, ReleaseCache};

use crate::bench::Bench;
use crate::peers::recorded;
use crate::row::{Against, Row, Unit, millis};

const BYTES: usize = 32 * 1024 * 1024;
const TIMES: usize = 10;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let first = bench.release_with("large", BYTES)?;
    // One in a hundred bytes differs, in one place.
    let second = bench.release_changed("large", BYTES, BYTES / 100)?;
    let (mut fresh, mut changed, mut again) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..TIMES {
        let cache = Cache::new(bench);
        fresh.add(loaded(bench, &first, &cache).await?);
        changed.add(loaded(bench, &second, &cache).await?);
        again.add(loaded(bench, &second, &cache).await?);
    }
    let uncached = {
        let mut samples = Samples::default();
        for _ in 0..TIMES {
            samples.add(loaded_by(bench, &first, ReleaseCache::none()).await?);
        }
        samples
    };
    let time = |name, samples: &Samples| Row::new(name, Unit::Milliseconds, samples.millis.clone());
    let floor = || Against::measured("no cache", Unit::Milliseconds, uncached.millis.clone());
    let bytes = |name, samples: &Samples| Row::new(name, Unit::Mebibytes, samples.fetched.clone());
    let whole = || Against::measured("whole", Unit::Mebibytes, fresh.fetched.clone());
    Ok(vec![
        time("32 MiB, connected-loaded", &fresh).against(recorded("Elixir", "32 MiB")).goal(120.0),
        time("same, without a cache", &uncached),
        time("second version, 1 % new", &changed).against(floor()),
        bytes("second version, travels", &changed).against(whole()).goal((0.5 * fresh.most()).floor() / 10.0),
        time("again on the same host", &again).against(floor()),
        bytes("again, travels", &again).against(whole()).goal(0.0),
    ])
}

/// What was measured of some loads.
#[derive(Default)]
struct Samples {
    millis: Vec<f64>,
    /// In MiB.
    fetched: Vec<f64>,
}

impl Samples {
    fn add(&mut self, (millis, fetched): (f64, f64)) {
        self.millis.push(millis);
        self.fetched.push(fetched);
    }

    fn most(&self) -> f64 {
        self.fetched.iter().copied().fold(0.0, f64::max)
    }
}

/// A host that has had nothing yet.
struct Cache(PathBuf);

impl Cache {
    fn new(bench: &Bench) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(bench.directory().join(format!("cache-{number}")))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn loaded(bench: &Bench, release: &Release, cache: &Cache) -> Result<(f64, f64), BoxError> {
    loaded_by(bench, release, ReleaseCache::at(&cache.0)).await
}

/// Milliseconds from connected to loaded, and MiB that travelled.
async fn loaded_by(bench: &Bench, release: &Release, cache: ReleaseCache) -> Result<(f64, f64), BoxError> {
    let fleet = bench.builder(Local::new(), release.clone()).release_cache(cache).start().await?;
    let mut events = fleet.events();
    let labor = fleet.start_child().await?;
    let mut connected = None;
    let millis = loop {
        let event = events.recv().await?;
        let Some(event) = event.of_labor() else { continue };
        match (event.state, connected) {
            (LaborState::Connected, _) => connected = Some(Instant::now()),
            (LaborState::Loaded, Some(at)) => break millis(at.elapsed()),
            (LaborState::Terminated, _) => return Err("the labor ended before it was loaded".into()),
            _ => {}
        }
    };
    labor.ready().await?;
    let fetched = fetched(bench, &fleet);
    fleet.stop().await;
    Ok((millis, fetched / (1 << 20) as f64))
}

/// Bytes of its release that a fleet's labors have fetched.
fn fetched(bench: &Bench, fleet: &Fleet) -> f64 {
    let text = bench.plane.metrics().text(Format::Prometheus);
    let sample = format!("overseer_release_bytes_total{{fleet=\"{}\",from=\"overseer\"}} ", fleet.name());
    text.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok()).unwrap_or(f64::NAN)
}
