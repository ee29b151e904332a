//! Directories that end with their process: each holds a locked file, so the next process can
//! tell those of the dead.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::{DataDirError, private_directory};

const LOCK: &str = "lock";

/// A directory of this process's; removed when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    directory: TempDir,
    /// Locked as long as the process lives.
    _lock: File,
}

/// The system's directory for temporary files: logs and artifacts may be large, and the runtime
/// directory of a session is a small part of its memory.
pub(super) fn base() -> PathBuf {
    std::env::temp_dir()
}

impl Lease {
    /// Makes a directory in `base/overseer-UID/`, and removes those of the dead there.
    pub(super) fn take(base: &Path) -> Result<Self, DataDirError> {
        let home = base.join(format!("overseer-{}", rustix::process::geteuid().as_raw()));
        private_directory(&home)?;
        Self::take_in(&home).map_err(|source| DataDirError::Io { path: home, source })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn take_in(home: &Path) -> io::Result<Self> {
        // A new directory is not yet locked for a moment: nobody may sweep in that moment.
        let gate = open_lock(home)?;
        rustix::fs::flock(&gate, FlockOperation::LockExclusive)?;
        for entry in fs::read_dir(home)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove_if_dead(&entry.path())?;
            }
        }
        // The directory of all may be one that others pass through.
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix("").permissions(private).tempdir_in(home)?;
        let lock = open_lock(directory.path())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self { directory, _lock: lock })
    }
}

fn remove_if_dead(directory: &Path) -> io::Result<()> {
    let lock = match open_lock(directory) {
        Ok(lock) => lock,
        // Its owner has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_lock(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))
}
