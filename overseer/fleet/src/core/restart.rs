use std::collections::VecDeque;
use std::time::Duration;

use overseer_protocol::Cause;
use serde::{Deserialize, Serialize};

use super::Millis;

/// When a labor that ended is replaced; the words are Erlang's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always, unless it was asked to end.
    #[default]
    Permanent,
    /// Only after an abnormal end: anything but asked for, idle or exit code 0.
    Transient,
    /// Never.
    Temporary,
}

impl Restart {
    /// Whether an end by this cause is followed by a replacement.
    pub fn applies(self, cause: &Cause) -> bool {
        match self {
            Self::Permanent => !matches!(cause, Cause::Asked | Cause::Idle),
            Self::Transient => !cause.is_normal(),
            Self::Temporary => false,
        }
    }
}

/// What happens when restarts come faster than the fleet allows, after the callback was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escalation {
    /// The labor that ended is not replaced.
    #[default]
    GiveUpLabor,
    /// All labors are ended.
    StopFleet,
}

/// Delay before a replacement. A labor that had been ready is replaced at once; each further
/// failure without having been ready doubles the delay, with full jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first delay.
    pub initial: Duration,
    /// Upper bound of any delay.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The delay after `failures` starts in a row that never became ready, in milliseconds:
    /// between half and all of the bound. `random` is any 64 bits.
    pub fn delay(&self, failures: u32, random: u64) -> Millis {
        if failures == 0 {
            return 0;
        }
        let initial = self.initial.as_millis() as u64;
        let bound = initial.saturating_mul(1 << (failures - 1).min(20)).min(self.max.as_millis() as u64);
        let half = bound / 2;
        half + random % (bound - half + 1)
    }
}

/// Counts restarts in a sliding window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intensity {
    times: VecDeque<Millis>,
}

impl Intensity {
    /// Counts one restart at `now`; false when that is more than `limit` within `period`.
    pub(crate) fn allow(&mut self, now: Millis, limit: u32, period: Duration) -> bool {
        let period = period.as_millis() as u64;
        while self.times.front().is_some_and(|t| now.saturating_sub(*t) >= period) {
            self.times.pop_front();
        }
        if self.times.len() >= limit as usize {
            return false;
        }
        self.times.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_keep_their_jitter_within_it() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1) };
        assert_eq!(backoff.delay(0, 7), 0);
        for (failures, bound) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (60, 1000)] {
            for random in [0, 1, 12345, u64::MAX] {
                let delay = backoff.delay(failures, random);
                assert!(delay >= bound / 2 && delay <= bound, "{failures} {random} {delay}");
            }
        }
    }

    #[test]
    fn the_window_slides() {
        let mut intensity = Intensity::default();
        let second = Duration::from_secs(1);
        assert!(intensity.allow(0, 2, second));
        assert!(intensity.allow(500, 2, second));
        assert!(!intensity.allow(999, 2, second));
        assert!(intensity.allow(1000, 2, second));
        assert!(!intensity.allow(1001, 2, second));
    }

    #[test]
    fn permanent_transient_and_temporary_differ_by_cause() {
        let crash = Cause::Signal { signal: 9 };
        let done = Cause::Exited { code: 0 };
        assert!(Restart::Permanent.applies(&crash) && Restart::Permanent.applies(&done));
        assert!(Restart::Transient.applies(&crash) && !Restart::Transient.applies(&done));
        assert!(!Restart::Temporary.applies(&crash));
        assert!(!Restart::Permanent.applies(&Cause::Asked));
    }
}
