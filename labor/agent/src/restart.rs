//! Whether and when a plugin host that ended is started again. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most ends within [`WINDOW`] that are answered by a restart.
pub(crate) const MOST: usize = 5;
/// See [`MOST`].
pub(crate) const WINDOW: Duration = Duration::from_secs(30);
/// The second restart within the window waits this long, each further one twice as long.
const WAIT: Duration = Duration::from_millis(100);

/// The ends of late.
#[derive(Debug, Default)]
pub(crate) struct Intensity {
    ends: VecDeque<Instant>,
}

impl Intensity {
    /// The host has ended. How long to wait before the restart; none: give up.
    pub(crate) fn ended(&mut self, now: Instant) -> Option<Duration> {
        while self.ends.front().is_some_and(|end| now.saturating_duration_since(*end) >= WINDOW) {
            self.ends.pop_front();
        }
        if self.ends.len() >= MOST {
            return None;
        }
        self.ends.push_back(now);
        match self.ends.len() {
            1 => Some(Duration::ZERO),
            n => Some(WAIT * (1 << (n - 2))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_mended_at_once_and_a_crash_loop_is_given_up() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut intensity = Intensity::default();
        let waits: Vec<_> = (0..6).map(|n| intensity.ended(start + ms(n * 10))).collect();
        let expected = [0, 100, 200, 400, 800].map(|n| Some(ms(n)));
        assert_eq!(waits[..5], expected);
        assert_eq!(waits[5], None);
    }

    #[test]
    fn a_crash_an_hour_never_gives_up() {
        let start = Instant::now();
        let mut intensity = Intensity::default();
        for hour in 0..100 {
            assert_eq!(intensity.ended(start + Duration::from_secs(hour * 3600)), Some(Duration::ZERO));
        }
    }
}
