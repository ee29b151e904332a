//! How long to wait before the next try.

use std::time::Duration;

/// Exponential with full jitter: the n-th wait is even between zero and
/// `min(longest, first * 2^n)`, so that a fleet does not come back in one wave.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
    random: fn() -> u64,
}

impl Backoff {
    /// `random` gives 64 even random bits.
    pub(crate) fn new(first: Duration, longest: Duration, random: fn() -> u64) -> Self {
        Self { first, longest, tries: 0, random }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.first.saturating_mul(1u32 << self.tries.min(20)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        let even = (u128::from((self.random)()) * u128::from(micros)) >> 64;
        Duration::from_micros(even as u64)
    }

    /// After a success: the next wait is a first one.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Random bits of the system; without any, the middle, which only makes waits less even.
pub(crate) fn system_random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again_after_a_success() {
        let ms = Duration::from_millis;
        let mut most = Backoff::new(ms(100), ms(10_000), || u64::MAX);
        let waits: Vec<_> = (0..9).map(|_| most.next()).collect();
        assert_eq!(waits[..4], [ms(100), ms(200), ms(400), ms(800)]);
        assert_eq!(waits[8], ms(10_000));
        most.reset();
        assert_eq!(most.next(), ms(100));
        assert_eq!(Backoff::new(ms(100), ms(10_000), || 0).next(), Duration::ZERO);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(9), || u64::MAX);
        (0..1000).for_each(|_| assert!(backoff.next() <= Duration::from_secs(9)));
    }
}
