//! Virtual time, chance, and what is on its way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use overseer::core::{Millis, Random};

/// Chance from a seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(Random);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::new(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Below `below`, which is not zero.
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        (self.0.bits() >> 11) % below
    }

    /// Once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

/// What is to happen, in order of time, and of those at one time in the order they were said.
#[derive(Debug)]
pub(super) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Millis, u64, Entry<T>)>>,
    count: u64,
    pub(super) now: Millis,
}

/// Never compared: the number before it differs.
#[derive(Debug)]
struct Entry<T>(T);

impl<T> PartialEq for Entry<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<T> Queue<T> {
    pub(super) fn new(now: Millis) -> Self {
        Self { heap: BinaryHeap::new(), count: 0, now }
    }

    pub(super) fn at(&mut self, when: Millis, what: T) {
        self.count += 1;
        self.heap.push(Reverse((when.max(self.now), self.count, Entry(what))));
    }

    pub(super) fn after(&mut self, delay: Millis, what: T) {
        self.at(self.now + delay, what);
    }

    /// The next thing, if it comes by then; time goes on to it, or to then.
    pub(super) fn next(&mut self, until: Millis) -> Option<T> {
        if self.heap.peek().is_none_or(|Reverse((when, ..))| *when > until) {
            self.now = self.now.max(until);
            return None;
        }
        let Reverse((when, _, Entry(what))) = self.heap.pop()?;
        self.now = when;
        Some(what)
    }
}
