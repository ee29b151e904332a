//! How many calls the plugin host gets beyond those that it runs at once.
//!
//! A call that waits at the agent costs a way to the host and back before it begins, which is
//! longer than a short call runs. So while calls are short some wait in the host instead. What
//! waits there is lost with the host, and its deadline for waiting is not looked at, so where
//! calls take longer none does. Attempts of stored tasks never do: what may have begun is to be
//! known of them.

use std::time::{Duration, Instant};

/// Most of them.
const MOST: usize = 64;
/// As long as calls are back sooner than this on average, waiting included.
const SHORT: Duration = Duration::from_millis(1);
/// Longer ones count as such, so that one of them is forgotten soon.
const LONG: Duration = Duration::from_millis(10);

/// How long calls are in the host: the average of the last few.
#[derive(Debug)]
pub(crate) struct Ahead(Duration);

impl Default for Ahead {
    fn default() -> Self {
        Self(LONG)
    }
}

impl Ahead {
    /// A call that was given to the host then is back.
    pub(crate) fn back(&mut self, given: Instant, now: Instant) {
        let took = now.saturating_duration_since(given).min(LONG);
        self.0 = (self.0 * 15 + took) / 16;
    }

    /// How many may wait in the host.
    pub(crate) fn most(&self) -> usize {
        if self.0 < SHORT { MOST } else { 0 }
    }
}
