//! Tasks as they are stored, whether their fleet runs or not.

use std::sync::Arc;

use overseer_protocol::{FleetName, TaskId};

use super::ControlPlane;
use crate::blobs::Reader;
use crate::claims::millis;
use crate::clock;
use crate::tasks::{TaskError, TaskRecord, TaskStorage};

impl ControlPlane {
    /// A task as it is stored.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], and those of the store.
    pub async fn task_record(&self, fleet: &FleetName, task: TaskId) -> Result<TaskRecord, TaskError> {
        self.tasks(fleet).get(task).await
    }

    /// Up to `limit` tasks of a fleet after `after`, oldest first: those at work, or those that are
    /// over.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn task_records(
        &self,
        fleet: &FleetName,
        over: bool,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskRecord>, TaskError> {
        self.tasks(fleet).list(over, after, limit).await
    }

    /// The fleets that have tasks, by name: also such as nobody has started here.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn fleets_with_tasks(&self) -> Result<Vec<FleetName>, TaskError> {
        Ok(TaskStorage::fleets(self.store()).await?)
    }

    /// The result of a task that is over.
    ///
    /// # Errors
    /// [`TaskError::Failed`] where it has none, [`TaskError::Stopped`] where it is not over, and those
    /// of store and blobs.
    pub async fn task_result(&self, record: &TaskRecord) -> Result<Reader, TaskError> {
        self.tasks(&record.fleet).open_result(record.task, record.result()?).await
    }

    /// Cancels a task of a fleet that does not run: one that waits is over, one that a labor may
    /// have is over when the fleet is started again. Fine when it is over. Of a fleet that runs
    /// [`Task::cancel`](crate::Task::cancel) does it. What is returned is what is stored now.
    ///
    /// # Errors
    /// [`TaskError::Unknown`], and those of the store.
    pub async fn cancel_stored_task(&self, fleet: &FleetName, task: TaskId) -> Result<TaskRecord, TaskError> {
        self.tasks(fleet).cancel(task, millis(clock::now())).await
    }

    pub(crate) fn tasks(&self, fleet: &FleetName) -> TaskStorage {
        TaskStorage::new(Arc::clone(&self.inner.store), Arc::clone(&self.inner.task_blobs), fleet.clone())
    }
}
