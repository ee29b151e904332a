use std::sync::atomic::AtomicU64;

use super::{Counts, Histogram};

/// What the embedded store counts.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    pub(crate) transactions: Counts,
    pub(crate) commits: AtomicU64,
    pub(crate) commit: Histogram,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            transactions: Counts::new(&["committed", "conflict", "failed"]),
            commits: AtomicU64::new(0),
            commit: Histogram::new(Histogram::SHORT),
        }
    }
}
