//! To stay awake for a moment: to be woken takes longer than a short call.
//!
//! While calls come one after the other the agent asks again and again whether there is something to
//! read, in place of sleeping until there is; in between it leaves the processor to who needs it. With
//! more calls at a time there is always something to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Longest time, whatever is asked for.
const MOST: Duration = Duration::from_millis(1);

/// Whether, and how long. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Spin(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Instant,
    /// Nanoseconds.
    time: AtomicU64,
    /// Nanoseconds since the origin.
    until: AtomicU64,
    begins: Notify,
}

impl Spin {
    /// One that does not, until it is [set](Spin::set). Runs beside the agent on its runtime.
    pub(crate) fn start() -> Self {
        let spin = Self(Arc::new(Shared {
            origin: Instant::now(),
            time: AtomicU64::new(0),
            until: AtomicU64::new(0),
            begins: Notify::new(),
        }));
        tokio::spawn(spin.clone().run());
        spin
    }

    /// How long from now on; zero for not at all.
    pub(crate) fn set(&self, time: Duration) {
        self.0.time.store(nanos(time.min(MOST)), Ordering::Relaxed);
    }

    /// How long.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_nanos(self.0.time.load(Ordering::Relaxed))
    }

    /// A call has come or is over, and so many are open now.
    pub(crate) fn open(&self, calls: usize) {
        let time = self.0.time.load(Ordering::Relaxed);
        if time == 0 {
            return;
        }
        let until = if calls > 1 { 0 } else { nanos(self.0.origin.elapsed()) + time };
        self.0.until.store(until, Ordering::Relaxed);
        if until > 0 {
            self.0.begins.notify_one();
        }
    }

    async fn run(self) {
        loop {
            self.0.begins.notified().await;
            while nanos(self.0.origin.elapsed()) < self.0.until.load(Ordering::Relaxed) {
                // Others on this processor may be who is waited for.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_awake_while_one_call_is_open_and_no_longer_than_it_may() {
        let spin = Spin::start();
        spin.open(1);
        assert_eq!(spin.0.until.load(Ordering::Relaxed), 0, "it was not asked for");
        spin.set(Duration::from_secs(9));
        assert_eq!(spin.time(), MOST);
        let awake = || spin.0.until.load(Ordering::Relaxed);
        spin.open(1);
        assert!(awake() > 0);
        spin.open(2);
        assert_eq!(awake(), 0);
        spin.open(0);
        assert!(awake() > 0, "the next one may come at once");
        // It ends by itself, else nothing else would.
        tokio::time::sleep(MOST * 2).await;
        assert!(awake() < nanos(spin.0.origin.elapsed()));
    }
}
