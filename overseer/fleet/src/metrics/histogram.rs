use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often which duration was seen. Observing is three atomic additions and no lock.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

/// What a histogram has seen so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Upper bound in seconds, and how many were at most that; the last one is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds of all together.
    pub sum: f64,
}

impl Histogram {
    /// For what takes microseconds to seconds.
    pub const SHORT: &'static [f64] = &[
        0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 5.0, 10.0, 60.0,
    ];
    /// For what takes milliseconds to hours.
    pub const LONG: &'static [f64] = &[
        0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
        7200.0,
    ];

    /// An empty one with these upper bounds, in seconds and rising.
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, nanos: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was seen so far.
    pub fn observed(&self) -> Observed {
        let mut count = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.load(Ordering::Relaxed);
            (bound, count)
        });
        Observed { buckets: buckets.collect(), sum: self.nanos.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

impl Observed {
    /// How many were seen.
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_what_is_at_most_its_bound() {
        let histogram = Histogram::new(&[0.001, 1.0]);
        for millis in [1, 2, 1000, 1001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let observed = histogram.observed();
        assert_eq!(observed.buckets, [(0.001, 1), (1.0, 3), (f64::INFINITY, 4)]);
        assert!((observed.sum - 2.004).abs() < 1e-9 && observed.count() == 4);
    }
}
