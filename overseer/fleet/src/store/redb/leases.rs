//! Which leases run, and until when. Pure: time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::store::LeaseId;

/// The running leases of a store.
#[derive(Debug, Default)]
pub(super) struct Leases {
    running: BTreeMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Leases {
    /// Starts a lease.
    pub(super) fn start(&mut self, lease: LeaseId, ttl: Duration, now: Duration) {
        self.end(lease);
        let deadline = now.saturating_add(ttl);
        self.running.insert(lease, Lease { ttl, deadline });
        self.by_deadline.insert((deadline, lease));
    }

    /// Starts the lease's time anew; false when it is not there or has run out at `now`.
    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Duration) -> bool {
        let Some(ttl) = self.running.get(&lease).filter(|l| now < l.deadline).map(|l| l.ttl) else {
            return false;
        };
        self.start(lease, ttl, now);
        true
    }

    /// Whether it is there and has not run out.
    pub(super) fn runs(&self, lease: LeaseId, now: Duration) -> bool {
        self.running.get(&lease).is_some_and(|l| now < l.deadline)
    }

    /// Forgets a lease.
    pub(super) fn end(&mut self, lease: LeaseId) {
        if let Some(old) = self.running.remove(&lease) {
            self.by_deadline.remove(&(old.deadline, lease));
        }
    }

    /// The leases that have run out, the oldest first.
    pub(super) fn over(&self, now: Duration) -> Vec<LeaseId> {
        self.by_deadline
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, lease)| *lease)
            .collect()
    }

    /// When the next one runs out.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }
}
