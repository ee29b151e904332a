//! How many failed attempts are answered as such. Whoever is over his allowance is told to come
//! again later; an attempt that is good is never looked at here, so nobody is locked out by what
//! others do behind the same address.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Source;

/// So many at once, and one more after each `refill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// At once; at least one.
    pub burst: u32,
    /// Until one more is allowed; longer than nothing.
    pub refill: Duration,
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureLimits {
    /// From one source.
    pub each: Allowance,
    /// From all together.
    pub all: Allowance,
    /// Sources that are remembered. Others count only among all.
    pub sources: usize,
}

/// Counts failed attempts. Pure: time is an argument.
#[derive(Debug)]
pub struct Failures {
    limits: FailureLimits,
    all: Bucket,
    sources: HashMap<Source, Bucket>,
    /// When those that are of no interest any more were last looked for.
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    refilled: Instant,
}

impl Failures {
    /// Nothing has failed yet.
    pub fn new(limits: FailureLimits, now: Instant) -> Self {
        Self { limits, all: Bucket::full(limits.all, now), sources: HashMap::new(), swept: None }
    }

    /// An attempt has failed. None when the caller may be told why; else how long he has to wait
    /// until he may be told again.
    pub fn failed(&mut self, source: Source, now: Instant) -> Option<Duration> {
        let each = self.limits.each;
        if !self.sources.contains_key(&source) && self.sources.len() >= self.limits.sources {
            self.sweep(now);
        }
        let known = self.sources.contains_key(&source);
        if known || self.sources.len() < self.limits.sources {
            let bucket = self.sources.entry(source).or_insert_with(|| Bucket::full(each, now));
            if let Err(wait) = bucket.take(each, now) {
                return Some(wait);
            }
        }
        self.all.take(self.limits.all, now).err()
    }

    /// Forgets those who have their whole allowance again, now and then.
    fn sweep(&mut self, now: Instant) {
        let each = self.limits.each;
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < each.refill) {
            return;
        }
        self.swept = Some(now);
        self.sources.retain(|_, bucket| !bucket.is_full(each, now));
    }
}

impl Bucket {
    fn full(allowance: Allowance, now: Instant) -> Self {
        Self { left: allowance.burst.max(1), refilled: now }
    }

    fn refill(&mut self, allowance: Allowance, now: Instant) {
        let burst = allowance.burst.max(1);
        let each = allowance.refill.max(Duration::from_nanos(1));
        let periods = now.saturating_duration_since(self.refilled).as_nanos() / each.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if self.left.saturating_add(periods) >= burst {
            *self = Self { left: burst, refilled: now };
        } else {
            self.left += periods;
            self.refilled += each * periods;
        }
    }

    fn is_full(&mut self, allowance: Allowance, now: Instant) -> bool {
        self.refill(allowance, now);
        self.left >= allowance.burst.max(1)
    }

    fn take(&mut self, allowance: Allowance, now: Instant) -> Result<(), Duration> {
        self.refill(allowance, now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err((self.refilled + allowance.refill).saturating_duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: FailureLimits = FailureLimits {
        each: Allowance { burst: 3, refill: SECOND },
        all: Allowance { burst: 5, refill: SECOND },
        sources: 4,
    };

    fn source(n: u8) -> Source {
        Source::V4([10, 0, 0, n])
    }

    #[test]
    fn one_source_is_told_to_wait_and_another_is_not() {
        let start = Instant::now();
        let mut failures = Failures::new(LIMITS, start);
        let told = (0..1000).filter(|_| failures.failed(source(1), start).is_none()).count();
        assert_eq!(told, 3);
        assert_eq!(failures.failed(source(1), start + SECOND / 4), Some(SECOND * 3 / 4));
        // What was over the limit of one source counts nowhere else.
        assert_eq!(failures.failed(source(2), start), None);
        assert_eq!(failures.failed(source(1), start + SECOND), None);
        assert!(failures.failed(source(1), start + SECOND).is_some());
    }

    #[test]
    fn all_together_have_a_limit_too() {
        let start = Instant::now();
        let mut failures = Failures::new(LIMITS, start);
        let told = (0..200).filter(|n| failures.failed(source(*n), start).is_none()).count();
        assert_eq!(told, 5);
        assert!(failures.sources.len() <= LIMITS.sources);
        let later = start + SECOND * 2;
        assert_eq!((0..200).filter(|n| failures.failed(source(*n), later).is_none()).count(), 2);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_those_who_are_quiet() {
        let start = Instant::now();
        let limits = FailureLimits { all: Allowance { burst: 1_000_000, refill: SECOND }, ..LIMITS };
        let mut failures = Failures::new(limits, start);
        for n in 0..=255 {
            failures.failed(source(n), start);
            assert!(failures.sources.len() <= limits.sources);
        }
        let later = start + SECOND * 3600;
        failures.failed(source(200), later);
        assert_eq!(failures.sources.len(), 1);
        assert_eq!((0..10).filter(|_| failures.failed(source(200), later).is_none()).count(), 2);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let start = Instant::now() + SECOND * 10;
        let mut failures = Failures::new(LIMITS, start);
        for _ in 0..3 {
            assert_eq!(failures.failed(source(1), start), None);
        }
        assert!(failures.failed(source(1), start - SECOND * 5).is_some());
    }
}
