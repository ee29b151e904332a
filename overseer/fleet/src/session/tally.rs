//! What the release of a labor has answered.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use overseer_protocol::proto::{CallFailure, CallResult, call_result};
use overseer_protocol::{CallErrorCode, ReleaseId};
use parking_lot::Mutex;

use crate::core::Tally;

/// Most characters of an error that are kept.
const TEXT: usize = 200;

/// What a release has answered, and with what error it failed last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answered {
    pub(crate) tally: Tally,
    newest: Option<(Instant, String)>,
}

impl Answered {
    pub(crate) fn add(&mut self, other: Self) {
        self.tally.answers += other.tally.answers;
        self.tally.failed += other.tally.failed;
        self.newest = self.newest.take().max(other.newest);
    }

    /// The newest error of its own, on one line.
    pub(crate) fn error(self) -> Option<String> {
        self.newest.map(|(_, error)| error)
    }
}

/// Counts the answers of the newest plugin host of a session, which runs one release.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    release: Mutex<Option<ReleaseId>>,
    /// The first plugin host of that release; what an older one still finishes does not count.
    since: AtomicU32,
    answers: AtomicU64,
    failed: AtomicU64,
    newest: Mutex<Option<(Instant, String)>>,
}

impl Answers {
    pub(crate) fn of(release: Option<ReleaseId>) -> Self {
        Self { release: Mutex::new(release), ..Self::default() }
    }

    pub(crate) fn release(&self) -> Option<ReleaseId> {
        *self.release.lock()
    }

    /// What it runs, and what that has answered.
    pub(crate) fn answered(&self) -> (Option<ReleaseId>, Answered) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = Tally { answers: of(&self.answers), failed: of(&self.failed) };
        (self.release(), Answered { tally, newest: self.newest.lock().clone() })
    }

    /// It runs this from now on, on that host; what the one before has answered, if it was another.
    pub(crate) fn runs(
        &self,
        release: Option<ReleaseId>,
        host: u32,
    ) -> Option<(Option<ReleaseId>, Answered)> {
        let mut present = self.release.lock();
        if *present == release {
            return None;
        }
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let tally = Tally { answers: take(&self.answers), failed: take(&self.failed) };
        let before = (*present, Answered { tally, newest: self.newest.lock().take() });
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
            && CallErrorCode::from_wire(failure.code).is_of_release()
        {
            *self.newest.lock() = Some((Instant::now(), text(failure)));
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A failure on one line that is not too long.
fn text(failure: &CallFailure) -> String {
    let said = format!("{}: ", CallErrorCode::from_wire(failure.code));
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let mut text: String = said.chars().chain(failure.message.chars().map(line)).take(TEXT).collect();
    if said.chars().count() + failure.message.chars().take(TEXT).count() > TEXT {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
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
        let (_, answered) = answers.answered();
        let Tally { answers: count, failed } = answered.tally;
        assert_eq!((count, failed), (2, 1), "a caller that cancels is no fault of it");
        assert_eq!(answers.runs(Some(old), 2), None);
        assert_eq!(answers.runs(Some(new), 3), Some((Some(old), answered)));
        answers.count(&failure(CallErrorCode::HostEnded, 1));
        assert_eq!(answers.answered(), (Some(new), Answered::default()), "that was the old one");
        answers.count(&failure(CallErrorCode::HostEnded, 3));
        assert_eq!(answers.answered().1.tally, Tally { answers: 1, failed: 1 });
        answers.count(&failure(CallErrorCode::HostEnded, 0));
        assert_eq!(answers.answered().1.tally.answers, 1, "no host has had it");
    }

    #[test]
    fn the_newest_error_of_all_sessions_is_known_and_is_a_short_line() {
        let said = |message: &str| {
            let (code, message) = (CallErrorCode::Failed as u32, message.to_owned());
            text(&CallFailure { code, message, ..CallFailure::default() })
        };
        assert_eq!(said("no bolts;\norder some"), "failed: no bolts; order some");
        let [long, longest] = [192, 193].map(|n| said(&"ä".repeat(n)));
        assert_eq!((long.chars().count(), long.ends_with('ä')), (200, true));
        assert_eq!((longest.chars().count(), longest.ends_with('…')), (201, true));

        let [mut sum, newer] = [0, 1].map(|_| {
            let answers = Answers::of(None);
            answers.count(&failure(CallErrorCode::Panicked, 1));
            answers.answered().1
        });
        let newer = Answered { newest: newer.newest.map(|(at, _)| (at, "newer".to_owned())), ..newer };
        sum.add(Answered::default());
        assert_eq!(sum.clone().error().as_deref(), Some("panicked: "));
        sum.add(newer);
        assert_eq!((sum.tally, sum.error().as_deref()), (Tally { answers: 2, failed: 2 }, Some("newer")));
    }
}
