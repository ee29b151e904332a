//! What follows an attempt that gave no result.

use overseer_protocol::{CallErrorCode, Cause, ReleaseId};

use super::Trust;
use crate::core::Millis;
use crate::core::restart::Backoff;
use crate::tasks::{AttemptEnd, RetryCause, TaskFailure, TaskRecord};

/// Plugin hosts that a task may end while it runs alone, before it is quarantined.
pub(super) const HOSTS: u32 = 2;
/// Nodes that may crash while they have a task, before it runs alone.
pub(super) const NODES_BEFORE_ALONE: u32 = 2;
/// Nodes that may crash while they have a task, before it is quarantined. More than hosts: a node
/// has many more reasons to go.
pub(super) const NODES: u32 = 8;

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another attempt after so many milliseconds.
    Again(Millis),
    /// Another one, for this release has failed it, and not it itself.
    Spared(ReleaseId),
    /// It is over.
    Over(TaskFailure),
}

/// Decides, and notes in the record what speaks against the task. `alone`: nothing else ran on its
/// labor.
pub(super) fn judge(
    record: &mut TaskRecord,
    end: &AttemptEnd,
    alone: bool,
    trust: Trust,
    backoff: &Backoff,
    random: u64,
) -> Verdict {
    let (code, message, cause) = match end {
        AttemptEnd::Lost { cause } => return lost(record, cause),
        AttemptEnd::Answered { code, message, cause } => (*code, message, cause),
    };
    if let Some(release) = spares(record, code, cause.as_ref(), trust) {
        return Verdict::Spared(release);
    }
    let answered = || TaskFailure::Answered { code, message: message.clone(), cause: cause.clone() };
    match (code, cause) {
        _ if record.cancelled => Verdict::Over(TaskFailure::Cancelled),
        // It has not run, and was asked for.
        (CallErrorCode::GivenBack, _) => Verdict::Again(0),
        // It has not run: the labor could not take it.
        (CallErrorCode::Overloaded | CallErrorCode::NotReady | CallErrorCode::Draining, _) => {
            Verdict::Again(backoff.delay(1, random))
        }
        // The agent gave it up with its session.
        (CallErrorCode::Cancelled, _) => again_or(record, || Verdict::Again(0), &Cause::ConnectionLost),
        (CallErrorCode::RunDeadline, Some(cause)) => ended_its_host(record, cause, true),
        (CallErrorCode::HostEnded, Some(cause)) if is_crash(cause) => ended_its_host(record, cause, alone),
        (CallErrorCode::HostEnded, cause) => {
            let cause = cause.clone().unwrap_or(Cause::Asked);
            again_or(record, || Verdict::Again(0), &cause)
        }
        // A full disk on the node: another one may do.
        (CallErrorCode::Agent, _) => {
            record.suspicion.nodes += 1;
            match record.suspicion.nodes < NODES && record.retry.on_loss {
                true => Verdict::Again(backoff.delay(record.suspicion.nodes, random)),
                false => Verdict::Over(answered()),
            }
        }
        (CallErrorCode::Failed, _) => charged(record, RetryCause::Error, answered(), backoff, random),
        (CallErrorCode::Panicked, _) => charged(record, RetryCause::Panic, answered(), backoff, random),
        (CallErrorCode::RunDeadline, None) => {
            charged(record, RetryCause::Deadline, answered(), backoff, random)
        }
        // The same answer would come again.
        (
            CallErrorCode::NoMethod
            | CallErrorCode::BadPayload
            | CallErrorCode::TooLarge
            | CallErrorCode::QueueDeadline,
            _,
        ) => Verdict::Over(answered()),
    }
}

/// The release that is to blame, and not the task: one that was taken back; or that is on trial, which
/// fails a task once before that is taken for the task's own.
fn spares(
    record: &TaskRecord,
    code: CallErrorCode,
    cause: Option<&Cause>,
    trust: Trust,
) -> Option<ReleaseId> {
    let of_release = match code {
        CallErrorCode::HostEnded => cause.is_some_and(is_crash),
        code => code.is_of_release(),
    };
    // What has no such method has not run.
    let may_run_again = record.retry.on_loss || code == CallErrorCode::NoMethod;
    if record.cancelled || !of_release || !may_run_again {
        return None;
    }
    match trust {
        Trust::Full => None,
        Trust::OnTrial(release) => {
            let spared = record.history.iter().any(|past| past.spared == Some(release));
            (!spared).then_some(release)
        }
        Trust::TakenBack(release) => Some(release),
    }
}

/// Its labor is gone. That is never charged.
fn lost(record: &mut TaskRecord, cause: &Cause) -> Verdict {
    if record.cancelled {
        return Verdict::Over(TaskFailure::Cancelled);
    }
    if is_crash(cause) {
        let suspicion = &mut record.suspicion;
        suspicion.nodes += 1;
        suspicion.alone |= suspicion.nodes >= NODES_BEFORE_ALONE;
        if suspicion.nodes >= NODES {
            return Verdict::Over(TaskFailure::Quarantined { hosts: suspicion.nodes, cause: cause.clone() });
        }
    }
    again_or(record, || Verdict::Again(0), cause)
}

/// A plugin host crashed, or had to be ended, while it had the task.
fn ended_its_host(record: &mut TaskRecord, cause: &Cause, guilty: bool) -> Verdict {
    if !record.retry.on_loss {
        return Verdict::Over(TaskFailure::Lost { cause: cause.clone() });
    }
    let suspicion = &mut record.suspicion;
    suspicion.alone = true;
    if guilty {
        suspicion.hosts += 1;
        if suspicion.hosts >= HOSTS {
            return Verdict::Over(TaskFailure::Quarantined { hosts: suspicion.hosts, cause: cause.clone() });
        }
    }
    Verdict::Again(0)
}

fn again_or(record: &TaskRecord, again: impl FnOnce() -> Verdict, cause: &Cause) -> Verdict {
    match record.retry.on_loss {
        true => again(),
        false => Verdict::Over(TaskFailure::Lost { cause: cause.clone() }),
    }
}

/// A failure of the task's own.
fn charged(
    record: &mut TaskRecord,
    why: RetryCause,
    failure: TaskFailure,
    backoff: &Backoff,
    random: u64,
) -> Verdict {
    // It has answered: it does not end what it runs in.
    record.suspicion.alone = false;
    record.charged += 1;
    match record.charged <= record.retry.times && record.retry.on.contains(&why) {
        true => Verdict::Again(backoff.delay(record.charged, random)),
        false => Verdict::Over(failure),
    }
}

/// Whether something ended in a way that a task may have brought about.
fn is_crash(cause: &Cause) -> bool {
    match cause {
        Cause::Signal { .. } | Cause::OutOfMemory | Cause::Panicked { .. } => true,
        Cause::Exited { code } => *code != 0,
        // Another call hung: that one is the guilty one.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::{Attempt, Generation, LaborId, TaskId};

    use super::*;
    use crate::tasks::{PastAttempt, Retry};

    fn record(retry: Retry) -> TaskRecord {
        TaskRecord::new("farm".parse().unwrap(), TaskId(7), "resize", retry, 1_000)
    }

    fn ends(record: &mut TaskRecord, code: CallErrorCode, cause: Option<Cause>, trust: Trust) -> Verdict {
        let end = AttemptEnd::Answered { code, message: "no".into(), cause };
        let verdict = judge(record, &end, true, trust, &Backoff::default(), 7);
        let spared = match verdict {
            Verdict::Spared(release) => Some(release),
            _ => None,
        };
        record.remember(PastAttempt {
            attempt: Attempt(1),
            labor: LaborId::new(1, 1),
            generation: Generation::FIRST,
            since_ms: 1_000,
            ended_ms: 2_000,
            end,
            spared,
        });
        verdict
    }

    #[test]
    fn what_a_release_on_trial_fails_is_charged_the_second_time_and_never_once_it_is_taken_back() {
        let [one, two] = [b"1", b"2"].map(|index| ReleaseId::of_index(index));
        let mut task = record(Retry::default());
        for code in [CallErrorCode::NoMethod, CallErrorCode::Failed, CallErrorCode::RunDeadline] {
            assert_eq!(ends(&mut task, code, None, Trust::TakenBack(one)), Verdict::Spared(one));
        }
        let failed = |task: &mut _, trust| ends(task, CallErrorCode::Failed, None, trust);
        assert_eq!(failed(&mut task, Trust::OnTrial(two)), Verdict::Spared(two));
        assert_eq!((task.charged, task.history.len()), (0, 4));
        assert!(matches!(failed(&mut task, Trust::OnTrial(two)), Verdict::Over(_)));
        assert!(matches!(failed(&mut record(Retry::default()), Trust::Full), Verdict::Over(_)));
        let mut cancelled = TaskRecord { cancelled: true, ..record(Retry::default()) };
        assert_eq!(failed(&mut cancelled, Trust::OnTrial(two)), Verdict::Over(TaskFailure::Cancelled));
    }

    #[test]
    fn a_host_that_a_release_on_trial_ends_speaks_against_no_task() {
        let release = ReleaseId::of_index(b"2");
        let ended = |task: &mut _, code, cause, trust| ends(task, code, Some(cause), trust);
        let mut task = record(Retry::default());
        let crash = Cause::Signal { signal: 11 };
        for (code, cause) in [
            (CallErrorCode::HostEnded, crash.clone()),
            (CallErrorCode::RunDeadline, Cause::Hung { after_ms: 1 }),
        ] {
            assert_eq!(ended(&mut task, code, cause, Trust::TakenBack(release)), Verdict::Spared(release));
        }
        assert_eq!(task.suspicion, Default::default());
        // A neighbour hung, or it was stopped: that waits for nothing.
        let hung = Cause::Hung { after_ms: 1 };
        let neighbour = ended(&mut task, CallErrorCode::HostEnded, hung, Trust::OnTrial(release));
        assert_eq!(neighbour, Verdict::Again(0));
        assert_eq!(ended(&mut task, CallErrorCode::HostEnded, crash, Trust::Full), Verdict::Again(0));
        assert!(task.suspicion.alone);
    }

    #[test]
    fn what_may_run_once_only_is_tried_again_only_if_it_has_not_run() {
        let release = ReleaseId::of_index(b"2");
        let mut task = record(Retry::never());
        let no_method = ends(&mut task, CallErrorCode::NoMethod, None, Trust::TakenBack(release));
        assert_eq!(no_method, Verdict::Spared(release));
        let failed = ends(&mut task, CallErrorCode::Failed, None, Trust::TakenBack(release));
        assert!(matches!(failed, Verdict::Over(TaskFailure::Answered { .. })), "{failed:?}");
        let crash = Some(Cause::Signal { signal: 11 });
        let lost =
            ends(&mut record(Retry::never()), CallErrorCode::HostEnded, crash, Trust::TakenBack(release));
        assert!(matches!(lost, Verdict::Over(TaskFailure::Lost { .. })), "{lost:?}");
    }
}
