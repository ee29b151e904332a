//! What goes when there is too much: what was used longest ago, and nothing that runs.

use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::{Entry, HostCache, PARTIAL, open_file, remove_file};

/// No agent takes so long to make a file.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// Most bytes of a disk that a cache leaves free for others; of a small one, a sixteenth.
const LEFT_FREE: u64 = 256 << 20;

impl HostCache {
    /// Makes room for a release whose archive has so many bytes: for its chunks here, and, for that
    /// may be the same disk, for its files.
    ///
    /// # Errors
    /// Why nothing of it is to be kept.
    pub(crate) fn make_room(&self, archive: u64) -> io::Result<()> {
        if archive > self.quota {
            let what = format!("a release of {archive} bytes is more than its quota of {}", self.quota);
            return Err(io::Error::new(ErrorKind::QuotaExceeded, what));
        }
        let lacking = self.lacking(archive)?;
        if lacking == 0 {
            return Ok(());
        }
        self.evict(|total| total.saturating_sub(lacking))?;
        match self.lacking(archive)? {
            0 => Ok(()),
            lacking => {
                let what = format!("its disk is almost full, {lacking} bytes are missing");
                Err(io::Error::new(ErrorKind::StorageFull, what))
            }
        }
    }

    fn lacking(&self, archive: u64) -> io::Result<u64> {
        let disk = statvfs(&self.releases)?;
        let left_free = (disk.f_blocks.saturating_mul(disk.f_frsize) / 16).min(LEFT_FREE);
        let needed = archive.saturating_mul(2).saturating_add(left_free);
        Ok(needed.saturating_sub(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    /// Evicts what is over the quota. While another agent does so, it is done.
    pub(crate) fn evict_surplus(&self) {
        if let Err(error) = self.evict(|_| self.quota) {
            self.complain(&error);
        }
    }

    /// Evicts down to so many of the bytes that are there.
    fn evict(&self, limit: impl Fn(u64) -> u64) -> io::Result<()> {
        let lock =
            File::options().create(true).truncate(false).write(true).open(self.root.join("eviction"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.releases)? {
            remove_left_behind(&entry?)?;
        }
        let mut entries = self.entries()?;
        entries.sort();
        let mut total = entries.iter().map(|entry| entry.bytes).sum();
        let limit = limit(total);
        for entry in entries {
            if total <= limit {
                break;
            }
            if remove(&entry)? {
                total -= entry.bytes;
            }
        }
        Ok(())
    }
}

/// What a killed agent has left half made.
fn remove_left_behind(entry: &DirEntry) -> io::Result<()> {
    if !entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
        return Ok(());
    }
    let changed = match entry.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        meta => meta?.modified()?,
    };
    match SystemTime::now().duration_since(changed) {
        Ok(age) if age > LEFT_BEHIND => remove_file(&entry.path()),
        _ => Ok(()),
    }
}

/// Removes it, unless an agent has it in use; whether it is gone.
fn remove(entry: &Entry) -> io::Result<bool> {
    let Ok(file) = open_file(&entry.path) else { return Ok(false) };
    // Held until it is removed, so that who locks it afterwards sees that it is gone.
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    remove_file(&entry.path)?;
    Ok(true)
}
