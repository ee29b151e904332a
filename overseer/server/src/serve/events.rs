//! What a fleet and its labors went through: the newest events, for who asks and who follows.

use std::collections::VecDeque;

use overseer::history::FleetEntry;
use overseer::{Cause, FleetHandle, LaborId, LaborState};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// Events that are kept for each fleet; the oldest go.
pub(crate) const KEPT: usize = 4096;

/// An event and its number, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) sequence: u64,
    pub(crate) entry: FleetEntry,
}

/// The newest events of a fleet, over its starts and stops.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: Mutex<VecDeque<Numbered>>,
    /// Number of the newest event.
    newest: watch::Sender<u64>,
    most: usize,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl EventLog {
    fn keeping(most: usize) -> Self {
        Self { kept: Mutex::default(), newest: watch::Sender::new(0), most }
    }

    fn push(&self, entry: FleetEntry) {
        let mut kept = self.kept.lock();
        let sequence = *self.newest.borrow() + 1;
        if kept.len() == self.most {
            kept.pop_front();
        }
        kept.push_back(Numbered { sequence, entry });
        self.newest.send_replace(sequence);
    }

    /// Events that nobody has seen: their numbers are used up.
    fn skip(&self, events: u64) {
        let _kept = self.kept.lock();
        self.newest.send_modify(|newest| *newest += events);
    }

    /// Keeps what a fleet tells from now on, until it ends.
    pub(crate) fn record(self: &std::sync::Arc<Self>, fleet: &FleetHandle) {
        let (mut events, log) = (fleet.events(), std::sync::Arc::clone(self));
        let count_lost = fleet.count_lost_events();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(entry) => log.push(entry),
                    Err(RecvError::Lagged(events)) => {
                        count_lost(events);
                        log.skip(events);
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// The newest `limit` events, of one labor or of all, oldest first.
    pub(crate) fn newest(&self, labor: Option<LaborId>, limit: usize) -> Vec<Numbered> {
        let kept = self.kept.lock();
        let of = |event: &Numbered| event.entry.of_labor().map(|entry| entry.labor);
        let wanted = kept.iter().rev().filter(|event| labor.is_none() || of(event) == labor);
        let mut newest: Vec<_> = wanted.take(limit).cloned().collect();
        newest.reverse();
        newest
    }

    /// Why the last labor ended that nobody has ended.
    pub(crate) fn given_up(&self) -> Option<Cause> {
        let kept = self.kept.lock();
        let entries = kept.iter().rev().filter_map(|event| event.entry.of_labor());
        let ends = entries.filter(|entry| entry.state == LaborState::Terminated);
        ends.filter_map(|entry| entry.cause.clone())
            .find(|cause| !matches!(cause, Cause::Asked | Cause::Idle))
    }

    /// Follows the events after this number.
    pub(crate) fn follow(self: &std::sync::Arc<Self>, after: u64) -> Follower {
        Follower { newest: self.newest.subscribe(), log: std::sync::Arc::clone(self), after }
    }

    /// Follows from so many of the newest events on.
    pub(crate) fn follow_newest(self: &std::sync::Arc<Self>, backlog: usize) -> Follower {
        let kept = self.kept.lock();
        let newest = *self.newest.borrow();
        let first = kept.len().saturating_sub(backlog);
        let after = kept.get(first).map_or(newest, |event| event.sequence - 1);
        drop(kept);
        self.follow(after)
    }
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    Event(Numbered),
    /// It was too slow, or the server was: so many are missing here.
    Lost(u64),
}

/// One who reads on at its own pace. It costs the server nothing but its place in the log.
#[derive(Debug)]
pub(crate) struct Follower {
    log: std::sync::Arc<EventLog>,
    newest: watch::Receiver<u64>,
    /// The last event that it knows.
    after: u64,
}

impl Follower {
    /// The next event; waits for it.
    pub(crate) async fn next(&mut self) -> Followed {
        let after = self.after;
        // The sender lives in the log, which this holds.
        let _ = self.newest.wait_for(|newest| *newest > after).await;
        let kept = self.log.kept.lock();
        let first = kept.partition_point(|event| event.sequence <= after);
        let (next, lost) = match kept.get(first) {
            Some(event) => (Some(event.clone()), event.sequence - after - 1),
            None => (None, *self.log.newest.borrow() - after),
        };
        drop(kept);
        self.after += lost.max(1);
        match next {
            Some(event) if lost == 0 => Followed::Event(event),
            _ => Followed::Lost(lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use overseer::history::{HistoryEntry, UpgradeEntry};
    use overseer::{Generation, UpgradeStage, UpgradeStatus};

    use super::*;

    fn entry(n: u32) -> FleetEntry {
        let (labor, generation) = (LaborId::new(1, u128::from(n % 2)), Generation(n));
        let state = LaborState::Ready;
        FleetEntry::Labor(HistoryEntry { labor, generation, state, cause: None, at_ms: 0 })
    }

    fn log(events: u32) -> Arc<EventLog> {
        let log = Arc::new(EventLog::keeping(4));
        (1..=events).for_each(|n| log.push(entry(n)));
        log
    }

    async fn told(follower: &mut Follower) -> (u64, u64) {
        match follower.next().await {
            Followed::Event(event) => {
                let entry = event.entry.of_labor().unwrap();
                assert_eq!(u64::from(entry.generation.0), event.sequence);
                (event.sequence, 0)
            }
            Followed::Lost(lost) => (0, lost),
        }
    }

    #[tokio::test]
    async fn a_follower_gets_the_backlog_and_then_what_happens() {
        let log = log(3);
        let mut follower = log.follow_newest(2);
        assert_eq!((told(&mut follower).await, told(&mut follower).await), ((2, 0), (3, 0)));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(10), follower.next()).await;
        assert!(waits.is_err());
        log.push(entry(4));
        assert_eq!(told(&mut follower).await, (4, 0));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_is_missing() {
        let log = log(10);
        let mut follower = log.follow(2);
        assert_eq!((told(&mut follower).await, told(&mut follower).await), ((0, 4), (7, 0)));
        // The server itself has missed some.
        log.skip(5);
        let mut late = log.follow(10);
        assert_eq!(told(&mut late).await, (0, 5));
        assert_eq!(log.newest(Some(LaborId::new(1, 0)), 9).len(), 2);
        assert_eq!(log.newest(None, 1)[0].sequence, 10);
    }

    #[test]
    fn an_upgrade_is_among_the_events_of_the_fleet_and_of_no_labor() {
        let log = log(2);
        let status = UpgradeStatus { from: None, to: None, stage: UpgradeStage::Done, changed: 1, labors: 1 };
        log.push(FleetEntry::Upgrade(UpgradeEntry { status, at_ms: 1 }));
        assert!(matches!(log.newest(None, 1)[0].entry, FleetEntry::Upgrade(_)));
        assert_eq!(log.newest(Some(LaborId::new(1, 0)), 9).len(), 1);
        assert_eq!(log.given_up(), None);
    }
}
