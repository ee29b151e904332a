//! Directories of labors on this machine that ended while nobody was there to remove them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::{Generation, LaborState};

use super::nodes::Nodes;
use crate::core::Life;

/// How long after the start of a fleet is looked first: by then it knows which labors it has.
const FIRST: Duration = Duration::from_secs(2);

/// Where the directories of labors are, below that of the control plane.
const LABORS: &str = "labors";

/// The directory of a life.
pub(super) fn of(plane: &Path, life: Life) -> PathBuf {
    plane.join(LABORS).join(format!("{}-{}", life.labor, life.generation))
}

/// Lets other users pass through the directory of a control plane to those of labors. Where it was closed,
/// all else in it is closed instead. One that goes with its process is in one of all such, which is passed
/// through too.
pub(super) fn let_pass(plane: &Path, is_ephemeral: bool) -> io::Result<()> {
    let labors = plane.join(LABORS);
    DirBuilder::new().recursive(true).mode(0o700).create(&labors)?;
    if fs::metadata(plane)?.permissions().mode() & 0o001 == 0 {
        close_all(plane, &labors)?;
    }
    let above = plane.parent().filter(|_| is_ephemeral);
    let passable = |path: &Path| match fs::metadata(path)?.permissions().mode() & 0o001 {
        0 => set_mode(path, 0o711),
        _ => Ok(()),
    };
    [Some(&*labors), Some(plane), above].into_iter().flatten().try_for_each(passable)
}

fn close_all(plane: &Path, but: &Path) -> io::Result<()> {
    for entry in fs::read_dir(plane)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let closed = match () {
            () if path == but => Ok(()),
            () if kind.is_dir() => set_mode(&path, 0o700),
            () if kind.is_file() => set_mode(&path, 0o600),
            // Who may connect to a socket is up to its own mode.
            () => Ok(()),
        };
        match closed {
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed?,
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

impl Nodes {
    /// Looks again and again, for as long as the fleet lives.
    pub(super) async fn keep_directories(self: Arc<Self>) {
        // Those of a temporary directory go with it; an adapter of other machines has none here.
        if self.plane.is_ephemeral() || !self.adapter.capabilities().same_machine {
            return;
        }
        tokio::time::sleep(FIRST).await;
        loop {
            match self.remove_directories().await {
                Ok(0) => {}
                Ok(directories) => tracing::info!(directories, "removed what labors have left that are gone"),
                Err(error) => {
                    tracing::warn!(%error, "what labors have left that are gone could not be removed; trying again later");
                }
            }
            tokio::time::sleep(self.shared.options.reconcile).await;
        }
    }

    /// Removes the directories that no life uses that is known to a fleet, to the store or to this
    /// machine; how many. What cannot be found out removes nothing.
    async fn remove_directories(&self) -> io::Result<usize> {
        let labors = self.plane.directory().join(LABORS);
        // First the list: a life is known before it has a directory, so what comes later is not in it.
        let mut there =
            tokio::task::spawn_blocking(move || listed(&labors)).await.map_err(io::Error::other)??;
        self.plane.lives().iter().for_each(|life| drop(there.remove(life)));
        if there.is_empty() {
            return Ok(0);
        }
        let Some(at_work) = self.adapter.at_work_here().await else { return Ok(0) };
        at_work.iter().for_each(|key| drop(there.remove(&Life::from(key))));
        let stored = self.plane.records().all(None, |record| (record.state, record.life())).await;
        for (state, life) in stored.map_err(io::Error::other)? {
            if is_at_work(state) {
                there.remove(&life);
            }
        }
        let gone: Vec<PathBuf> = there.into_values().collect();
        tokio::task::spawn_blocking(move || remove(&gone)).await.map_err(io::Error::other)?
    }
}

impl crate::control_plane::ControlPlane {
    /// Lives of all its fleets that may have a directory.
    fn lives(&self) -> BTreeSet<Life> {
        let mut lives = BTreeSet::new();
        for shared in self.fleets() {
            for labor in shared.labors.read().values() {
                let status = labor.status.borrow();
                if is_at_work(status.state) {
                    lives.insert(Life { labor: labor.id, generation: status.generation });
                }
            }
        }
        lives
    }
}

/// Whether the end of a life in this state is not confirmed yet.
fn is_at_work(state: LaborState) -> bool {
    !matches!(state, LaborState::Backoff | LaborState::Terminated)
}

/// The directories of lives below a path; whatever else is there is nobody's business here.
fn listed(labors: &Path) -> io::Result<BTreeMap<Life, PathBuf>> {
    let entries = match fs::read_dir(labors) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut there = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let life = entry.file_name().to_str().and_then(|name| {
            let (labor, generation) = name.rsplit_once('-')?;
            Some(Life { labor: labor.parse().ok()?, generation: Generation(generation.parse().ok()?) })
        });
        there.extend(life.map(|life| (life, entry.path())));
    }
    Ok(there)
}

fn remove(directories: &[PathBuf]) -> io::Result<usize> {
    for directory in directories {
        match fs::remove_dir_all(directory) {
            // Another fleet's look was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(directories.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_pass_to_the_labors_and_find_all_else_closed() {
        let home = tempfile::tempdir().unwrap();
        let plane = home.path().join("plane");
        fs::create_dir_all(plane.join("logs")).unwrap();
        fs::write(plane.join("store.redb"), "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        set_mode(home.path(), 0o700).unwrap();
        set_mode(&plane, 0o700).unwrap();
        for _ in 0..2 {
            let_pass(&plane, true).unwrap();
            assert_eq!([mode(home.path()), mode(&plane), mode(&plane.join(LABORS))], [0o711; 3]);
            assert_eq!((mode(&plane.join("logs")), mode(&plane.join("store.redb"))), (0o700, 0o600));
        }
        // What was open was meant to be.
        set_mode(&plane, 0o755).unwrap();
        set_mode(&plane.join("logs"), 0o755).unwrap();
        let_pass(&plane, false).unwrap();
        assert_eq!(mode(&plane.join("logs")), 0o755);
    }
}
