//! Which plugin hosts have how many calls.

use std::collections::{BTreeMap, BTreeSet};

/// A life of a plugin host in one agent: its incarnation.
pub(crate) type HostNumber = u32;

/// The host that takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) enum Present {
    #[default]
    Absent,
    /// One is on its way: calls wait for it.
    Starting,
    Up {
        host: HostNumber,
        concurrency: u32,
    },
}

/// The present host, and those before it that finish what they have: after an upgrade both run.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    pub(super) present: Present,
    /// Calls of the present one.
    running: usize,
    /// Calls of each of the others.
    retired: BTreeMap<HostNumber, usize>,
    /// Those that have been told to end and are not gone yet.
    killed: BTreeSet<HostNumber>,
}

impl Hosts {
    /// Calls of all of them.
    pub(super) fn running(&self) -> usize {
        self.running + self.retired.values().sum::<usize>()
    }

    /// Where calls can be given now: to which host, how many it has, and how many it runs at once.
    pub(super) fn open(&self) -> Option<(HostNumber, usize, u32)> {
        match self.present {
            Present::Up { host, concurrency } if !self.killed.contains(&host) => {
                Some((host, self.running, concurrency))
            }
            _ => None,
        }
    }

    /// Another one takes calls from now on, or none for a while. What was there before finishes what
    /// it has; it is returned if that is nothing.
    pub(super) fn replace(&mut self, present: Present) -> Option<HostNumber> {
        let before = std::mem::replace(&mut self.present, present);
        let Present::Up { host, .. } = before else { return None };
        let running = std::mem::take(&mut self.running);
        if running == 0 {
            return Some(host);
        }
        self.retired.insert(host, running);
        None
    }

    /// A call begins on the present host.
    pub(super) fn begin(&mut self) {
        self.running += 1;
    }

    /// A call of a host is over; whether that was the last one of a host that takes no more.
    pub(super) fn end(&mut self, host: HostNumber) -> bool {
        if self.is_present(host) {
            self.running -= 1;
            return false;
        }
        let Some(left) = self.retired.get_mut(&host) else { return false };
        *left -= 1;
        let idle = *left == 0;
        if idle {
            self.retired.remove(&host);
        }
        idle
    }

    /// Notes that a host is ended; false when that is known, or it is gone.
    pub(super) fn kill(&mut self, host: HostNumber) -> bool {
        let there = self.is_present(host) || self.retired.contains_key(&host);
        there && self.killed.insert(host)
    }

    /// A host is gone, and its calls have [ended](Hosts::end).
    pub(super) fn gone(&mut self, host: HostNumber) {
        self.killed.remove(&host);
    }

    pub(super) fn is_present(&self, host: HostNumber) -> bool {
        matches!(self.present, Present::Up { host: present, .. } if present == host)
    }
}
