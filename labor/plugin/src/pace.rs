//! When a thread that runs calls keeps the others waiting, and when it lets another thread in.
//!
//! To wake a thread takes longer than a short call. So a thread that finds calls short, and many,
//! runs them one behind the other and writes their answers together. Whether one of them takes
//! longer than thought is seen by another thread, which looks now and then while that goes on,
//! and lets the others in then.

use std::time::{Duration, Instant};

/// Calls that take less on average are short.
const SHORT: Duration = Duration::from_micros(20);
/// Longer ones count as such, so that one of them is forgotten soon.
const LONG: Duration = Duration::from_micros(200);
/// Calls are many when one begins within this time of the one before.
const MANY: Duration = Duration::from_micros(500);
/// How long an answer waits for others to be written with.
const HELD: Duration = Duration::from_micros(100);

/// How calls have come and gone.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long one takes: the average of the last few.
    typical: Duration,
    last: Option<Instant>,
    /// Calls that began, ever.
    pub(crate) begun: u64,
    /// Somebody looks whether a call takes longer than thought.
    pub(crate) watched: bool,
    /// Since when answers wait to be written.
    held: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { typical: LONG, last: None, begun: 0, watched: false, held: None }
    }
}

impl Pace {
    /// A call begins. Whether its thread keeps the others waiting meanwhile.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let many = self.last.is_some_and(|last| now.saturating_duration_since(last) < MANY);
        self.last = Some(now);
        self.begun += 1;
        many && self.typical < SHORT
    }

    /// Whether calls are short: the next one may come soon.
    pub(crate) fn keeps(&self) -> bool {
        self.typical < SHORT
    }

    /// A call that began then is over.
    pub(crate) fn end(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began).min(LONG);
        self.typical = (self.typical * 7 + took) / 8;
    }

    /// There is an answer that is not written yet. Whether it may wait for the next one.
    pub(crate) fn hold(&mut self, now: Instant) -> bool {
        let since = *self.held.get_or_insert(now);
        now.saturating_duration_since(since) < HELD
    }

    /// Answers are written now.
    pub(crate) fn written(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(30);

    /// So many calls that take so long, one every so often; how many were kept.
    fn run(pace: &mut Pace, at: &mut Instant, count: usize, took: Duration, every: Duration) -> usize {
        let mut kept = 0;
        for _ in 0..count {
            kept += usize::from(pace.begin(*at));
            pace.end(*at, *at + took);
            *at += every;
        }
        kept
    }

    #[test]
    fn short_calls_are_kept_when_they_are_many() {
        let (mut pace, mut at) = (Pace::default(), Instant::now());
        let short = Duration::from_micros(2);
        assert_eq!(run(&mut pace, &mut at, 10, short, STEP), 0, "nothing is known of them");
        run(&mut pace, &mut at, 50, short, STEP);
        assert_eq!(run(&mut pace, &mut at, 50, short, STEP), 50);
        at += MANY;
        assert_eq!(run(&mut pace, &mut at, 50, short, MANY), 0, "they are few");
        run(&mut pace, &mut at, 1, short, STEP);
        assert_eq!(run(&mut pace, &mut at, 50, short, STEP), 50);
        run(&mut pace, &mut at, 3, Duration::from_millis(5), STEP);
        assert_eq!(run(&mut pace, &mut at, 5, short, STEP), 0, "they may take long");
        run(&mut pace, &mut at, 50, short, STEP);
        assert_eq!(run(&mut pace, &mut at, 50, short, STEP), 50, "no longer");
    }

    #[test]
    fn an_answer_waits_for_others_but_not_for_long() {
        let (mut pace, at) = (Pace::default(), Instant::now());
        assert!(pace.hold(at) && pace.hold(at + HELD / 2));
        assert!(!pace.hold(at + HELD));
        pace.written();
        assert!(pace.hold(at + HELD));
    }
}
