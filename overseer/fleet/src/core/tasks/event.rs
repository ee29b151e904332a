use std::collections::BTreeSet;

use overseer_protocol::{Attempt, Cause, SessionId, TaskId};

use super::Trust;
use crate::core::Life;
use crate::store::Revision;
use crate::tasks::{AttemptEnd, Content, TaskRecord};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEvent {
    /// A task is in the store: a new one, or one that was found there.
    Known(Box<TaskRecord>, Revision),
    /// A labor takes so many tasks at once over this session.
    Opened {
        /// Whose.
        life: Life,
        /// The session.
        session: SessionId,
        /// Tasks at once.
        places: usize,
    },
    /// What an agent has of tasks, said when its session began; what it does not name it never
    /// got, or has forgotten.
    Held {
        /// Whose.
        life: Life,
        /// Its session.
        session: SessionId,
        /// Attempts that run, wait or have a result there.
        attempts: Vec<(TaskId, Attempt)>,
    },
    /// No new tasks for this labor; those that it has may come to their end.
    Closed(Life),
    /// That life is over.
    Gone(Life, Cause),
    /// Only these lives are left of those that the store knew: said once, after a start.
    Survivors(BTreeSet<Life>),
    /// The write of a task has come back.
    Stored(TaskId, Revision),
    /// The session did not take it.
    NotSent(TaskId, Attempt),
    /// An attempt has ended. The result's bytes are where its content says.
    Answered {
        /// By whom.
        life: Life,
        /// Of which task.
        task: TaskId,
        /// Of which attempt.
        attempt: Attempt,
        /// A result, or why there is none.
        end: Result<Content, AttemptEnd>,
        /// In what it ran on.
        trust: Trust,
    },
    /// It is not wanted any more.
    Cancel(TaskId),
    /// A deadline may have passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEffect {
    /// Write this record in place of the one of that revision; [`TaskEvent::Stored`] follows.
    Store(Box<TaskRecord>, Revision),
    /// Give this attempt to the labor.
    Send {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// To whom.
        life: Life,
        /// Over which session.
        session: SessionId,
    },
    /// Ask the labor to end it; an answer follows.
    Cancel {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Who has it.
        life: Life,
    },
    /// Ask the labor to give it back if it has not begun it; then an answer follows.
    AskBack {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Who has it.
        life: Life,
    },
    /// The labor may forget the attempt; where it still runs, it ends it.
    Forget {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// Who has it.
        life: Life,
    },
    /// The task is over and stored; whoever waits for it is told.
    Over(Box<TaskRecord>),
}
