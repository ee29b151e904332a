//! Many alike become few entries: the first at once, those that follow as a number. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How often the same is recorded.
const PERIOD: Duration = Duration::from_secs(60);
/// Different ones that are told from each other.
const DIFFERENT: usize = 256;
/// Entries of different ones within a period.
const ENTRIES: u32 = 64;

/// Counts what is alike, by a key. None stands for all that cannot be told from each other any
/// more, because there are too many.
#[derive(Debug)]
pub(crate) struct Digest<K> {
    seen: HashMap<Option<K>, Seen>,
    /// Entries since then.
    since: Instant,
    entries: u32,
}

#[derive(Debug)]
struct Seen {
    recorded: Instant,
    /// Since then, not recorded yet.
    more: u32,
}

impl<K: Hash + Eq + Clone> Digest<K> {
    /// Nothing was seen yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { seen: HashMap::new(), since: now, entries: 0 }
    }

    /// One more. True when it is to be recorded by itself, once; else it is counted.
    pub(crate) fn count(&mut self, key: K, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.entries) = (now, 0);
        }
        let mut key = Some(key);
        if !self.seen.contains_key(&key) {
            if self.seen.len() < DIFFERENT && self.entries < ENTRIES {
                self.entries += 1;
                self.seen.insert(key, Seen { recorded: now, more: 0 });
                return true;
            }
            key = None;
        }
        let seen = self.seen.entry(key).or_insert(Seen { recorded: now, more: 0 });
        seen.more = seen.more.saturating_add(1);
        false
    }

    /// What was counted and is to be recorded now, with how many; all of it at the end. What was
    /// quiet for a period is forgotten.
    pub(crate) fn due(&mut self, now: Instant, all: bool) -> Vec<(Option<K>, u32)> {
        let mut due = Vec::new();
        self.seen.retain(|key, seen| {
            if !all && now.saturating_duration_since(seen.recorded) < PERIOD {
                return true;
            }
            if seen.more == 0 {
                return false;
            }
            due.push((key.clone(), std::mem::take(&mut seen.more)));
            seen.recorded = now;
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_two_entries_a_period() {
        let start = Instant::now();
        let mut digest = Digest::new(start);
        let recorded = (0..100_000).filter(|_| digest.count("x", start)).count();
        assert_eq!(recorded, 1);
        assert!(digest.due(start + PERIOD / 2, false).is_empty());
        assert_eq!(digest.due(start + PERIOD, false), [(Some("x"), 99_999)]);
        assert!(!digest.count("x", start + PERIOD));
        assert_eq!(digest.due(start + PERIOD, true), [(Some("x"), 1)]);
        assert!(digest.due(start + PERIOD * 2, false).is_empty());
        assert!(digest.count("x", start + PERIOD * 2), "it was quiet for long enough");
    }

    #[test]
    fn a_flood_of_different_ones_is_bounded_and_none_is_lost() {
        let start = Instant::now();
        let mut digest = Digest::new(start);
        let mut recorded = 0;
        for n in 0..10_000 {
            recorded += u32::from(digest.count(n, start));
        }
        assert_eq!(recorded, ENTRIES);
        assert_eq!(digest.due(start + PERIOD, false), [(None, 10_000 - ENTRIES)]);
        for period in 2..10 {
            for n in 0..10_000 {
                digest.count(n, start + PERIOD * period);
                assert!(digest.seen.len() <= DIFFERENT + 1);
            }
            let due = digest.due(start + PERIOD * (period + 1), false);
            assert!(due.len() <= DIFFERENT + 1);
        }
    }
}
