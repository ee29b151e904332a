use std::time::Duration;

use tokio::time::Instant;

/// News that a labor may have at once.
const BURST: u32 = 256;
/// Until it may have one more.
const REFILL: Duration = Duration::from_millis(50);

/// How much a labor may make the fleet's actor think about: its mailbox has no bound of its own.
#[derive(Debug)]
pub(super) struct Pace {
    /// Heartbeats within this time say nothing new.
    beat: Duration,
    heard: Option<Instant>,
    left: u32,
    refilled: Instant,
}

impl Pace {
    /// For a labor that is to be heard once in every `heartbeat`.
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self { beat: heartbeat / 4, heard: None, left: BURST, refilled: now }
    }

    /// Whether a heartbeat is worth a word to the actor.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let worth = self.heard.is_none_or(|at| now.duration_since(at) >= self.beat);
        if worth {
            self.heard = Some(now);
        }
        worth
    }

    /// Whether a labor may say something else of itself: a change of its release, its host, its
    /// machine.
    pub(super) fn news(&mut self, now: Instant) -> bool {
        let periods = now.duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(BURST).min(BURST);
        if periods > 0 {
            self.left = (self.left + periods).min(BURST);
            self.refilled = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_fine_and_a_flood_is_not() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(1), start);
        assert_eq!((0..10_000).filter(|_| pace.news(start)).count(), BURST as usize);
        assert!(pace.news(start + REFILL));
        assert!(!pace.news(start + REFILL));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..10_000).filter(|_| pace.news(later)).count(), BURST as usize);
    }

    #[test]
    fn of_many_heartbeats_only_some_are_passed_on() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_millis(400), start);
        let passed = (0..1000).filter(|ms| pace.heard(start + Duration::from_millis(*ms))).count();
        assert_eq!(passed, 10);
    }
}
