//! What the release of a labor has answered.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use overseer_protocol::proto::{CallResult, call_result};
use overseer_protocol::{CallErrorCode, ReleaseId};
use parking_lot::Mutex;

use crate::core::Tally;

/// Counts the answers of the newest plugin host of a session, which runs one release.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    release: Mutex<Option<ReleaseId>>,
    /// The first plugin host of that release; what an older one still finishes does not count.
    since: AtomicU32,
    answers: AtomicU64,
    failed: AtomicU64,
}

impl Answers {
    pub(crate) fn of(release: Option<ReleaseId>) -> Self {
        Self { release: Mutex::new(release), ..Self::default() }
    }

    pub(crate) fn release(&self) -> Option<ReleaseId> {
        *self.release.lock()
    }

    /// What it runs, and what that has answered.
    pub(crate) fn tally(&self) -> (Option<ReleaseId>, Tally) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.release(), Tally { answers: of(&self.answers), failed: of(&self.failed) })
    }

    /// It runs this from now on, on that host; what the one before has answered, if it was another.
    pub(crate) fn runs(&self, release: Option<ReleaseId>, host: u32) -> Option<(Option<ReleaseId>, Tally)> {
        let mut present = self.release.lock();
        if *present == release {
            return None;
        }
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let before = (*present, Tally { answers: take(&self.answers), failed: take(&self.failed) });
        *present = release;
        self.since.store(host, Ordering::Relaxed);
        Some(before)
    }

    pub(crate) fn count(&self, result: &CallResult) {
        if result.incarnation < self.since.load(Ordering::Relaxed).max(1) {
            return;
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
        if let Some(call_result::Outcome::Failure(failure)) = &result.outcome
            && is_of_release(CallErrorCode::from_wire(failure.code))
        {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a failure is the release's own, and not one of its caller or of the labor.
fn is_of_release(code: CallErrorCode) -> bool {
    use CallErrorCode::{BadPayload, Failed, HostEnded, NoMethod, Panicked, RunDeadline};
    matches!(code, Failed | NoMethod | BadPayload | Panicked | HostEnded | RunDeadline)
}

#[cfg(test)]
mod tests {
    use overseer_protocol::proto::CallFailure;

    use super::*;

    fn failure(code: CallErrorCode, incarnation: u32) -> CallResult {
        let failure = CallFailure { code: code as u32, ..CallFailure::default() };
        CallResult {
            incarnation,
            outcome: Some(call_result::Outcome::Failure(failure)),
            ..CallResult::default()
        }
    }

    #[test]
    fn only_what_the_new_host_answers_counts_for_the_new_release() {
        let [old, new] = [b"old", b"new"].map(|index| ReleaseId::of_index(index));
        let answers = Answers::of(Some(old));
        answers.count(&failure(CallErrorCode::Panicked, 1));
        answers.count(&failure(CallErrorCode::Cancelled, 1));
        let (_, tally) = answers.tally();
        assert_eq!((tally.answers, tally.failed), (2, 1), "a caller that cancels is no fault of it");
        assert_eq!(answers.runs(Some(old), 2), None);
        assert_eq!(answers.runs(Some(new), 3), Some((Some(old), tally)));
        answers.count(&failure(CallErrorCode::HostEnded, 1));
        assert_eq!(answers.tally(), (Some(new), Tally::default()), "that was the old one");
        answers.count(&failure(CallErrorCode::HostEnded, 3));
        assert_eq!(answers.tally().1, Tally { answers: 1, failed: 1 });
        answers.count(&failure(CallErrorCode::HostEnded, 0));
        assert_eq!(answers.tally().1.answers, 1, "no host has had it");
    }
}
