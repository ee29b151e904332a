use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::BuildError;
use crate::cancel::Cancel;
use crate::place::only_file;

const NO_LINK: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// A lock file that is held until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock, unless somebody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, BuildError> {
        let fail = || BuildError::io("cannot lock", path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(BuildError::io("cannot make", directory))?;
        }
        loop {
            // What a step may have put there: a link would have another file locked and touched.
            only_file(path)?;
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).custom_flags(NO_LINK);
            let file = options.open(path).map_err(fail())?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(fail()(e.into())),
            }
            // Who cleans up removes the file under its lock; then this one is of no worth.
            let held = file.metadata().map_err(fail())?.ino();
            if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == held) {
                return Ok(Some(Self { file }));
            }
        }
    }

    /// Takes the lock when it is free.
    pub(crate) fn take(path: &Path, cancel: &Cancel) -> Result<Self, BuildError> {
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            // flock cannot be waited for together with a cancellation.
            if cancel.wait(Duration::from_millis(20)) {
                return Err(BuildError::Cancelled);
            }
        }
    }

    /// Marks the lock file as used now.
    pub(crate) fn touch(&self) {
        // Only the order of eviction hangs on it.
        let _ = self.file.set_modified(std::time::SystemTime::now());
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started may have the file for a moment.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
