//! The time of day that decisions are made with. The system's clock may jump: somebody sets it, a
//! machine sleeps, a wrong battery is put right by the network. This one does not. It goes with the
//! monotonic clock and comes near to the system's by at most a tenth of what passes, so that within
//! a process a duration is never wrong by more than that, and the time that the next process reads
//! is the system's in the end.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// A difference between the clocks that is no jump: what is set bit by bit looks so.
const JUMP: Duration = Duration::from_secs(2);
/// How often it is looked whether the clock has jumped.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// The part of what passes that may be added or left out.
const PART: u32 = 10;

/// How far, and which way, the system's clock has jumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jump {
    Forward(Duration),
    Back(Duration),
}

/// Pure: both clocks are given. Times of day are counted from 1970.
#[derive(Debug)]
struct Steady {
    mono: Duration,
    wall: Duration,
    time: Duration,
}

impl Steady {
    fn new(mono: Duration, wall: Duration) -> Self {
        Self { mono, wall, time: wall }
    }

    /// The time, which never goes back, and whether the system's has jumped since the last time.
    fn read(&mut self, mono: Duration, wall: Duration) -> (Duration, Option<Jump>) {
        let passed = mono.saturating_sub(self.mono);
        let (straight, expected) = (self.time + passed, self.wall + passed);
        let most = passed / PART;
        self.time = match wall.checked_sub(straight) {
            Some(behind) => straight + behind.min(most),
            None => straight - (straight - wall).min(most),
        };
        (self.mono, self.wall) = (self.mono.max(mono), wall);
        let jump = match wall.checked_sub(expected) {
            Some(forward) => (forward >= JUMP).then_some(Jump::Forward(forward)),
            None => Some(expected - wall).filter(|back| *back >= JUMP).map(Jump::Back),
        };
        (self.time, jump)
    }
}

struct Clocks {
    begun: Instant,
    steady: Mutex<Steady>,
}

static CLOCKS: LazyLock<Clocks> = LazyLock::new(|| Clocks {
    begun: Instant::now(),
    steady: Mutex::new(Steady::new(Duration::ZERO, wall())),
});

fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The time of day, as the module says. Says it when the system's clock has jumped.
pub fn now() -> SystemTime {
    let (time, jump) = {
        let mut steady = CLOCKS.steady.lock();
        steady.read(CLOCKS.begun.elapsed(), wall())
    };
    let say = |way, by: Duration| {
        let seconds = by.as_secs_f64();
        tracing::warn!(
            "the clock of this machine has jumped {way} by {seconds:.1} s; deadlines are kept as they were"
        );
    };
    match jump {
        Some(Jump::Forward(by)) => say("forward", by),
        Some(Jump::Back(by)) => say("back", by),
        None => {}
    }
    SystemTime::UNIX_EPOCH + time
}

/// From when to when a certificate is to be good that is made now: by our time and by the system's,
/// which others go by.
pub(crate) fn now_for_all(ttl: Duration) -> (SystemTime, Duration) {
    span(now(), SystemTime::now(), ttl)
}

fn span(one: SystemTime, other: SystemTime, ttl: Duration) -> (SystemTime, Duration) {
    let (first, last) = (one.min(other), one.max(other));
    (first, ttl + last.duration_since(first).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Duration = Duration::from_secs(1_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clocks_that_agree_are_one_clock() {
        let mut steady = Steady::new(Duration::ZERO, START);
        for n in 1..1000 {
            assert_eq!(steady.read(SECOND * n, START + SECOND * n), (START + SECOND * n, None));
        }
    }

    #[test]
    fn a_jump_is_told_once_and_moves_the_time_by_a_tenth_of_what_passes() {
        for forward in [true, false] {
            let mut steady = Steady::new(Duration::ZERO, START);
            let jumped = |at| if forward { START + at + HOUR * 3 } else { START + at - HOUR * 3 };
            let (time, jump) = steady.read(SECOND, jumped(SECOND));
            let by = HOUR * 3;
            assert_eq!(jump, Some(if forward { Jump::Forward(by) } else { Jump::Back(by) }));
            let wrong = |time: Duration, at: Duration| time.abs_diff(START + at);
            assert!(wrong(time, SECOND) <= SECOND / 10);
            let mut last = time;
            for n in 2..3600 {
                let at = SECOND * n;
                let (time, jump) = steady.read(at, jumped(at));
                assert_eq!(jump, None, "it was told");
                assert!(time > last, "it never goes back");
                assert!(wrong(time, at) <= at / 10);
                last = time;
            }
        }
    }

    #[test]
    fn in_the_end_it_is_the_time_of_the_system() {
        for wall in [START + HOUR, START - HOUR] {
            let mut steady = Steady::new(Duration::ZERO, START);
            for n in 1..=(11 * 3600) {
                steady.read(SECOND * n, wall + SECOND * n);
            }
            let at = SECOND * (11 * 3600 + 1);
            assert_eq!(steady.read(at, wall + at), (wall + at, None));
        }
    }

    #[test]
    fn bits_by_which_a_clock_is_put_right_are_no_jump() {
        let mut steady = Steady::new(Duration::ZERO, START);
        for n in 1..1000 {
            let at = SECOND * n;
            assert_eq!(steady.read(at, START + at + Duration::from_millis(5) * n).1, None);
        }
    }

    #[test]
    fn a_monotonic_clock_that_is_read_out_of_turn_changes_nothing() {
        let mut steady = Steady::new(Duration::ZERO, START);
        let (time, _) = steady.read(SECOND * 5, START + SECOND * 5);
        assert_eq!(steady.read(SECOND * 4, START + SECOND * 5).0, time);
        assert_eq!(steady.read(SECOND * 6, START + SECOND * 6).0, START + SECOND * 6);
    }

    #[test]
    fn a_certificate_is_good_by_either_clock() {
        let (early, late) = (SystemTime::UNIX_EPOCH + HOUR, SystemTime::UNIX_EPOCH + HOUR * 30);
        for (one, other) in [(early, late), (late, early)] {
            let (from, ttl) = span(one, other, HOUR);
            assert_eq!((from, from + ttl), (early, late + HOUR));
        }
    }
}
