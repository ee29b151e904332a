//! What follows an attempt that gave no result.

use overseer_protocol::{CallErrorCode, Cause};

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
    /// It is over.
    Over(TaskFailure),
}

/// Decides, and notes in the record what speaks against the task. `alone`: nothing else ran on its
/// labor.
pub(super) fn judge(
    record: &mut TaskRecord,
    end: &AttemptEnd,
    alone: bool,
    backoff: &Backoff,
    random: u64,
) -> Verdict {
    let (code, message, cause) = match end {
        AttemptEnd::Lost { cause } => return lost(record, cause),
        AttemptEnd::Answered { code, message, cause } => (*code, message, cause),
    };
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
