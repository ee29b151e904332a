//! What survives the server.

use std::collections::BTreeMap;

use overseer::core::{Life, Millis};
use overseer::store::Revision;
use overseer::tasks::TaskRecord;
use overseer::{Cause, LaborId, LaborState, TaskId};

/// The record of a labor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labor {
    pub(super) life: Life,
    pub(super) state: LaborState,
    pub(super) unwanted: bool,
    pub(super) cause: Option<Cause>,
    /// Until when its machine might join, if that was invited.
    pub(super) invited: Option<Millis>,
}

/// Labors and tasks.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) labors: BTreeMap<LaborId, Labor>,
    pub(super) tasks: BTreeMap<TaskId, (TaskRecord, Revision)>,
    revision: u64,
}

/// One write.
#[derive(Debug, Clone)]
pub(super) enum Write {
    /// The intent of a life: it is followed by a request to the adapter.
    Intent(Labor),
    /// The state of a labor.
    State(Labor),
    Forget(LaborId),
    Submit(Box<TaskRecord>),
    Task(Box<TaskRecord>, Revision),
}

impl Store {
    /// Writes it, and checks what no write may do.
    pub(super) fn write(&mut self, write: &Write) -> Revision {
        self.revision += 1;
        let revision = Revision(self.revision);
        match write {
            Write::Intent(labor) | Write::State(labor) => {
                self.labors.insert(labor.life.labor, labor.clone());
            }
            Write::Forget(labor) => {
                self.labors.remove(labor);
            }
            Write::Submit(record) => {
                let old = self.tasks.insert(record.task, ((**record).clone(), revision));
                assert!(old.is_none(), "a task is submitted twice");
            }
            Write::Task(record, follows) => {
                let (old, at) = &self.tasks[&record.task];
                assert_eq!(at, follows, "a change of a task that follows nothing: {record:?}");
                assert!(!old.is_over(), "a task that was over is changed: {old:?} {record:?}");
                assert!(record.attempts >= old.attempts && record.charged >= old.charged);
                self.tasks.insert(record.task, ((**record).clone(), revision));
            }
        }
        revision
    }
}
