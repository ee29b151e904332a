//! Tasks of the library as the control API has them.

use std::collections::BTreeSet;

use overseer::tasks::{AttemptEnd, Content, PastAttempt, TaskRecord};
use overseer::{Retry, RetryCause, TaskState};

use super::proto;
use crate::failure::Failure;

/// A task with how its attempts ended.
pub(super) fn whole(record: &TaskRecord) -> proto::Task {
    proto::Task { past: record.history.iter().map(past).collect(), ..brief(record) }
}

/// A task as a list has it.
pub(super) fn brief(record: &TaskRecord) -> proto::Task {
    let mut task = proto::Task {
        id: record.task.to_string(),
        fleet: record.fleet.to_string(),
        method: record.method.clone(),
        attempts: record.attempts,
        charged: record.charged,
        key: record.key.as_ref().map(|key| key.name.clone()),
        retry: Some(retry(&record.retry)),
        submitted_ms: record.submitted_ms,
        payload_bytes: length(&record.payload),
        queue_until_ms: record.queue_until_ms,
        run_ms: record.run_ms,
        cancelled: record.cancelled,
        ..proto::Task::default()
    };
    match &record.state {
        TaskState::Queued { not_before_ms } => {
            task.set_state(proto::TaskState::Queued);
            task.since_ms = *not_before_ms;
        }
        TaskState::Running { labor, since_ms, .. } => {
            task.set_state(proto::TaskState::Running);
            (task.labor, task.since_ms) = (labor.to_string(), *since_ms);
        }
        TaskState::Done { result, labor, at_ms, .. } => {
            task.set_state(proto::TaskState::Done);
            (task.labor, task.since_ms) = (labor.to_string(), *at_ms);
            task.result_bytes = Some(length(result));
        }
        TaskState::Failed { failure, at_ms } => {
            task.set_state(proto::TaskState::Failed);
            task.since_ms = *at_ms;
            task.failure = Some(proto::Cause { code: failure.code().to_owned(), text: failure.to_string() });
        }
    }
    task
}

fn length(content: &Content) -> u64 {
    match content {
        Content::Store { bytes } | Content::Blob { bytes, .. } => *bytes,
    }
}

fn past(past: &PastAttempt) -> proto::PastAttempt {
    let end = match &past.end {
        AttemptEnd::Answered { code, message, .. } => {
            let spared = past.spared.map_or_else(String::new, |release| {
                format!("; not charged, for release {} was on trial or taken back", release.short())
            });
            proto::Cause { code: "answered".to_owned(), text: format!("{code}: {message}{spared}") }
        }
        AttemptEnd::Lost { cause } => proto::Cause { code: cause.code().to_owned(), text: cause.to_string() },
    };
    proto::PastAttempt {
        attempt: past.attempt.0,
        labor: past.labor.to_string(),
        generation: past.generation.0,
        since_ms: past.since_ms,
        ended_ms: past.ended_ms,
        end: Some(end),
    }
}

const CAUSES: [(&str, RetryCause); 3] =
    [("error", RetryCause::Error), ("panic", RetryCause::Panic), ("deadline", RetryCause::Deadline)];

fn retry(retry: &Retry) -> proto::TaskRetry {
    let on = CAUSES.iter().filter(|(_, cause)| retry.on.contains(cause));
    proto::TaskRetry {
        on_loss: retry.on_loss,
        times: retry.times,
        on: on.map(|(name, _)| (*name).to_owned()).collect(),
    }
}

/// The rule that a client has given.
///
/// # Errors
/// `task.retry`.
pub(super) fn rule(given: Option<proto::TaskRetry>) -> Result<Retry, Failure> {
    let Some(given) = given else { return Ok(Retry::default()) };
    let mut retry = Retry { on_loss: given.on_loss, times: given.times, ..Retry::default() };
    if !given.on.is_empty() {
        let cause = |name: &String| {
            let known = CAUSES.iter().find(|(known, _)| known == name).map(|(_, cause)| *cause);
            known.ok_or_else(|| {
                let shown: String = name.chars().take(32).collect();
                Failure::input("task.retry", format!("a task is not tried again on {shown:?}"))
                    .help("choose of error, panic and deadline")
            })
        };
        retry.on = given.on.iter().map(cause).collect::<Result<BTreeSet<_>, _>>()?;
    }
    Ok(retry)
}

#[cfg(test)]
mod tests {
    use overseer::{Attempt, CallErrorCode, Generation, LaborId, ReleaseId};

    use super::*;

    #[test]
    fn an_attempt_that_is_not_charged_says_what_for() {
        let release = ReleaseId::of_index(b"2");
        let attempt = |spared| PastAttempt {
            attempt: Attempt(1),
            labor: LaborId::new(1, 1),
            generation: Generation::FIRST,
            since_ms: 1_000,
            ended_ms: 2_000,
            end: AttemptEnd::Answered {
                code: CallErrorCode::Failed,
                message: "no bolts".into(),
                cause: None,
            },
            spared,
        };
        let text = |spared| past(&attempt(spared)).end.unwrap().text;
        assert_eq!(text(None), "failed: no bolts");
        let spared = text(Some(release));
        assert!(spared.starts_with("failed: no bolts; not charged") && spared.contains(&release.short()));
    }
}
