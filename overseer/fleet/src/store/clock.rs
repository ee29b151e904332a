use std::time::{Duration, Instant};

/// Time that leases are measured with. Injected, so that tests need not wait.
pub trait Clock: Send + Sync + 'static {
    /// Time since a fixed moment of this process; never goes back.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock(Instant);

impl Default for MonotonicClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
