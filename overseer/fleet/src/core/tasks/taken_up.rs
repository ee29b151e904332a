//! A task that an earlier process has stored, by whose clock it may lie in the future: that clock was
//! ahead, or ours was set back. Pure.

use crate::core::Millis;
use crate::tasks::{TaskRecord, TaskState};

/// Brings its times to ours: it was submitted now at the latest, may be queued for as long as it might
/// before, and waits for its turn no longer than any task may, which is `most`.
pub(super) fn at(record: &mut TaskRecord, now: Millis, most: Millis) {
    let ahead = record.submitted_ms.saturating_sub(now);
    record.submitted_ms -= ahead;
    record.queue_until_ms = record.queue_until_ms.map(|until| until.saturating_sub(ahead));
    if let TaskState::Queued { not_before_ms } = &mut record.state {
        *not_before_ms = (*not_before_ms).min(now.saturating_add(most));
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::TaskId;

    use super::*;
    use crate::tasks::Retry;

    const NOW: Millis = 10_000_000;

    fn record(submitted: Millis, until: Option<Millis>) -> TaskRecord {
        let record = TaskRecord::new("farm".parse().unwrap(), TaskId(7), "echo", Retry::default(), submitted);
        TaskRecord { queue_until_ms: until, ..record }
    }

    #[test]
    fn a_task_of_the_past_is_as_it_was() {
        let mut found = record(NOW - 5_000, Some(NOW + 1_000));
        let before = found.clone();
        at(&mut found, NOW, 30_000);
        assert_eq!(found, before);
    }

    #[test]
    fn a_task_of_the_future_may_run_at_once_and_keeps_its_time_in_the_queue() {
        let later = NOW + 7_200_000;
        let mut found = record(later, Some(later + 60_000));
        at(&mut found, NOW, 30_000);
        assert_eq!((found.submitted_ms, found.queue_until_ms), (NOW, Some(NOW + 60_000)));
        let TaskState::Queued { not_before_ms } = found.state else { panic!("{found:?}") };
        assert!(not_before_ms <= NOW + 30_000);
    }
}
