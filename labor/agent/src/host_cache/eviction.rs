//! What goes when there is too much: what was used longest ago, and nothing that runs.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use overseer_protocol::ReleaseId;
use overseer_release::Index;
use rustix::fs::{FlockOperation, flock, statvfs};

use super::{HostCache, PARTIAL, index, open_file};

/// No agent takes so long to write a chunk.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// Most bytes of a disk that a cache leaves free for others; of a small one, a sixteenth.
const LEFT_FREE: u64 = 256 << 20;

/// Something that may go.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
    is_index: bool,
}

impl HostCache {
    /// Makes room for a release whose archive has so many bytes: for its chunks here, and, for that
    /// may be the same disk, for its files.
    ///
    /// # Errors
    /// Why nothing of it is to be kept.
    pub(crate) fn make_room(&self, archive: u64) -> io::Result<()> {
        if archive > self.quota {
            let what = format!("a release of {archive} bytes is more than its quota of {}", self.quota);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, what));
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
                Err(io::Error::new(io::ErrorKind::StorageFull, what))
            }
        }
    }

    fn lacking(&self, archive: u64) -> io::Result<u64> {
        let disk = statvfs(&self.chunks)?;
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
        let mut total = 0;
        let mut in_use = HashSet::new();
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.indexes)? {
            let Some(found) = look(&entry?, true)? else { continue };
            total += found.bytes;
            match chunks_in_use(&found) {
                Some(chunks) => in_use.extend(chunks),
                None => entries.push(found),
            }
        }
        for entry in fs::read_dir(&self.chunks)? {
            let Some(found) = look(&entry?, false)? else { continue };
            total += found.bytes;
            if !found.path.file_name().is_some_and(|name| in_use.contains(name)) {
                entries.push(found);
            }
        }
        let limit = limit(total);
        entries.sort();
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

/// Something of the cache's own; what a killed agent has left half written is removed.
fn look(entry: &DirEntry, is_index: bool) -> io::Result<Option<Entry>> {
    let name = entry.file_name();
    let (partial, named) = (name.as_encoded_bytes().starts_with(PARTIAL.as_bytes()), is_digest(&name));
    let meta = match entry.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if partial && age(&meta)? > LEFT_BEHIND {
        remove_file(&entry.path())?;
    }
    if !named || !meta.is_file() {
        return Ok(None);
    }
    Ok(Some(Entry { used: meta.modified()?, path: entry.path(), bytes: meta.len(), is_index }))
}

fn age(meta: &Metadata) -> io::Result<Duration> {
    Ok(SystemTime::now().duration_since(meta.modified()?).unwrap_or_default())
}

fn is_digest(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

/// The names of a release's chunks, where an agent has it in use.
fn chunks_in_use(entry: &Entry) -> Option<Vec<OsString>> {
    let file = open_file(&entry.path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return None;
    }
    let id: ReleaseId = entry.path.file_name()?.to_str()?.parse().ok()?;
    let index = Index::parse(&index::read(&file, id)?.index).ok()?;
    Some(index.chunks.iter().map(|chunk| chunk.digest.to_string().into()).collect())
}

/// Removes it, unless an agent has begun to use it; whether it is gone.
fn remove(entry: &Entry) -> io::Result<bool> {
    // Held until it is removed, so that who locks it afterwards sees that it is gone.
    let _held = match entry.is_index {
        true => {
            let Ok(file) = open_file(&entry.path) else { return Ok(false) };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Ok(false);
            }
            Some(file)
        }
        false => None,
    };
    remove_file(&entry.path)?;
    Ok(true)
}

/// Whoever was faster has removed it as well.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
