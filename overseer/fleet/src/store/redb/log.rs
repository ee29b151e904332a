//! The newest changes, in memory: what watches read. A store that is opened begins with none, so a
//! watch from before that is told to read everything anew.

use std::collections::VecDeque;

use crate::store::{Change, Revision};

/// What a change costs beside its key and value.
const OVERHEAD: u64 = 128;
/// Bounds of what a watch takes at once.
const PAGE_CHANGES: usize = 256;
const PAGE_BYTES: u64 = 1 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    pub(super) changes: u64,
    pub(super) bytes: u64,
}

/// Changes without a gap, up to the last commit.
#[derive(Debug)]
pub(super) struct Log {
    bounds: LogBounds,
    changes: VecDeque<Change>,
    bytes: u64,
    /// How many have gone: the place of the first one that is here.
    gone: u64,
    /// Of the last change that has gone.
    compacted: Revision,
    /// Of the last commit.
    end: Revision,
}

/// What a watch finds at its place.
#[derive(Debug)]
pub(super) enum Page {
    /// Changes, the place behind them, and whether there are more.
    Changes(Vec<Change>, u64, bool),
    /// What would follow has gone; up to this revision.
    Compacted(Revision),
}

impl Log {
    /// One that begins behind a revision.
    pub(super) fn behind(end: Revision, bounds: LogBounds) -> Self {
        Self { bounds, changes: VecDeque::new(), bytes: 0, gone: 0, compacted: end, end }
    }

    /// Adds what a commit has done, whose last revision is `end`, and lets the oldest go.
    pub(super) fn append(&mut self, changes: Vec<Change>, end: Revision) {
        self.bytes += changes.iter().map(cost).sum::<u64>();
        self.changes.extend(changes);
        self.end = end;
        let over = |log: &Self| log.changes.len() as u64 > log.bounds.changes || log.bytes > log.bounds.bytes;
        while over(self) {
            let Some(revision) = self.changes.front().map(revision) else { break };
            // A revision goes as a whole: a watch never sees a part of a transaction.
            while self.changes.front().is_some_and(|first| self::revision(first) == revision) {
                self.bytes -= self.changes.pop_front().as_ref().map_or(0, cost);
                self.gone += 1;
            }
            self.compacted = revision;
        }
    }

    /// Forgets everything if the file has other commits behind it than those that were appended.
    pub(super) fn continue_at(&mut self, end: Revision) {
        if self.end != end {
            let gone = self.gone + self.changes.len() as u64 + 1;
            *self = Self { gone, ..Self::behind(end, self.bounds) };
        }
    }

    /// The place of the first change after a revision.
    pub(super) fn place(&self, from: Revision) -> Result<u64, Revision> {
        if from < self.compacted {
            return Err(self.compacted);
        }
        Ok(self.gone + self.changes.partition_point(|change| revision(change) <= from) as u64)
    }

    /// The changes of a prefix from a place on.
    pub(super) fn page(&self, place: u64, prefix: &str) -> Page {
        let Some(index) = place.checked_sub(self.gone) else {
            return Page::Compacted(self.compacted);
        };
        let (mut found, mut bytes, mut seen) = (Vec::new(), 0, 0);
        for change in self.changes.iter().skip(index as usize) {
            if seen == PAGE_CHANGES as u64 || bytes > PAGE_BYTES {
                return Page::Changes(found, place + seen, true);
            }
            seen += 1;
            if key(change).starts_with(prefix) {
                bytes += cost(change);
                found.push(change.clone());
            }
        }
        Page::Changes(found, place + seen, false)
    }
}

/// The revision of a change.
pub(super) fn revision(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.revision,
        Change::Deleted(_, revision) | Change::Compacted(revision) => *revision,
    }
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Deleted(key, _) => key,
        Change::Compacted(_) => "",
    }
}

fn cost(change: &Change) -> u64 {
    let value = match change {
        Change::Put(entry) => entry.value.len(),
        _ => 0,
    };
    OVERHEAD + (key(change).len() + value) as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Entry;

    fn put(key: &str, at: u64, bytes: usize) -> Change {
        let value = Bytes::from(vec![0; bytes]);
        Change::Put(Entry { key: key.into(), value, revision: Revision(at), lease: None })
    }

    fn log(changes: u64, bytes: u64) -> Log {
        Log::behind(Revision(10), LogBounds { changes, bytes })
    }

    #[test]
    fn a_revision_goes_as_a_whole_and_who_was_there_is_told() {
        let mut log = log(4, 1 << 20);
        let start = log.place(Revision(10)).unwrap();
        log.append(vec![put("a", 11, 1), put("b", 11, 1), put("c", 11, 1)], Revision(11));
        assert!(matches!(log.page(start, "b"), Page::Changes(found, 3, false) if found == [put("b", 11, 1)]));
        log.append(vec![put("a", 12, 1), put("b", 12, 1)], Revision(12));
        assert!(matches!(log.page(start, ""), Page::Compacted(Revision(11))));
        assert_eq!(log.place(Revision(10)), Err(Revision(11)));
        let from = log.place(Revision(11)).unwrap();
        assert!(matches!(log.page(from, ""), Page::Changes(found, 5, false) if found.len() == 2));
        // Larger than everything that may be kept.
        log.append(vec![put("a", 13, 2 << 20)], Revision(13));
        assert!(matches!(log.page(from, ""), Page::Compacted(Revision(13))));
        assert_eq!((log.bytes, log.changes.len()), (0, 0));
    }

    #[test]
    fn what_is_taken_at_once_is_bounded() {
        let mut log = log(10_000, 1 << 30);
        let start = log.place(Revision(10)).unwrap();
        log.append((0..1000).map(|n| put("k", 11 + n, 1)).collect(), Revision(1010));
        let Page::Changes(found, next, true) = log.page(start, "k") else { panic!() };
        assert_eq!((found.len(), next), (PAGE_CHANGES, PAGE_CHANGES as u64));
        log.append(vec![put("big", 1011, 2 << 20), put("big", 1012, 2 << 20)], Revision(1012));
        let from = log.place(Revision(1010)).unwrap();
        assert!(matches!(log.page(from, ""), Page::Changes(found, _, true) if found.len() == 1));
    }

    #[test]
    fn commits_that_it_has_not_seen_are_a_gap() {
        let mut log = log(100, 1 << 20);
        log.append(vec![put("a", 11, 1)], Revision(11));
        let seen = log.place(Revision(11)).unwrap();
        log.continue_at(Revision(11));
        assert!(matches!(log.page(seen, ""), Page::Changes(found, _, false) if found.is_empty()));
        log.continue_at(Revision(12));
        assert!(matches!(log.page(seen, ""), Page::Compacted(Revision(12))));
    }
}
