//! The end of logs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use overseer_protocol::TaskId;

use super::{LogError, Logs, run_blocking};

impl Logs {
    /// Removes what a task has written; who reads it just now reads on.
    pub(crate) async fn remove(self: &Arc<Self>, task: TaskId) -> Result<(), LogError> {
        let logs = Arc::clone(self);
        run_blocking(move || logs.remove_now(task)).await
    }

    fn remove_now(&self, task: TaskId) -> Result<(), LogError> {
        let gone: Vec<_> = self.open.lock().extract_if(|name, _| name.task == task).collect();
        // Apart: who writes to a file may look through those that are open.
        gone.iter().for_each(|(_, stream)| self.close(&mut stream.file.lock()));
        let path = self.root.join(task.to_string());
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LogError::Io { path, source }),
            _ => Ok(()),
        }
    }

    /// Removes what was written by those that are not `kept`, have no open stream, and wrote
    /// nothing since `before`; how many there were.
    pub(crate) async fn remove_old(
        self: &Arc<Self>,
        before: SystemTime,
        kept: HashSet<TaskId>,
    ) -> Result<usize, LogError> {
        let logs = Arc::clone(self);
        run_blocking(move || {
            let failed = |source| LogError::Io { path: logs.root.clone(), source };
            let entries = match fs::read_dir(&logs.root) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                entries => entries.map_err(failed)?,
            };
            let mut removed = 0;
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let Some(task) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let is_open = || logs.open.lock().keys().any(|name| name.task == task);
                if !kept.contains(&task)
                    && last_written(&entry.path()).is_some_and(|at| at < before)
                    && !is_open()
                {
                    logs.remove_now(task)?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }
}

/// When a file of this directory, or it itself, was written last.
fn last_written(directory: &Path) -> Option<SystemTime> {
    let files = fs::read_dir(directory).ok()?.flatten().map(|file| file.path());
    let times = files.chain([directory.to_owned()]).map(|path| fs::metadata(path).and_then(|m| m.modified()));
    times.flatten().max()
}
