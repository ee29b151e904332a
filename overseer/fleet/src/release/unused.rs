//! Releases that were fetched from a URL and that nobody uses any more.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use overseer_protocol::ReleaseId;
use rustix::fs::{FlockOperation, flock};

use super::Release;
use crate::clock;

/// A release that no configuration names stays for so long after it was used last: another server of this
/// user may name it, or this one again.
const UNUSED: Duration = Duration::from_secs(30 * 86_400);
/// A download that broke can be gone on with for so long.
const BROKEN: Duration = Duration::from_secs(7 * 86_400);

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    /// When a release was used last, or a part of one written to.
    used: SystemTime,
}

/// Which of these files go. What is called as none of ours is nobody's business here.
fn unused<'f>(found: &'f [Found], named: &BTreeSet<ReleaseId>, now: SystemTime) -> Vec<&'f Path> {
    let goes = |found: &&Found| {
        let id = found.path.file_stem().and_then(|stem| stem.to_str()?.parse::<ReleaseId>().ok());
        let kind = found.path.extension().and_then(|kind| kind.to_str());
        // One that is of the future was used just now.
        let age = now.duration_since(found.used).unwrap_or_default();
        match (id, kind) {
            (Some(id), Some("release")) => age > UNUSED && !named.contains(&id),
            (Some(_), Some("part")) => age > BROKEN,
            _ => false,
        }
    };
    found.iter().filter(goes).map(|found| &*found.path).collect()
}

/// Held by who fetches or opens a release, so that none is removed meanwhile; also by other processes.
pub(super) struct Held {
    _lock: File,
}

impl Held {
    /// Waits for a removal to end.
    pub(super) fn take(directory: &Path) -> io::Result<Self> {
        let lock = File::open(directory)?;
        flock(&lock, FlockOperation::LockShared)?;
        Ok(Self { _lock: lock })
    }
}

/// Notes that a release is used. Its time of access says so: that it was written to would show by the other.
pub(super) fn touch(path: &Path) {
    let touched = File::open(path).and_then(|f| f.set_times(FileTimes::new().set_accessed(clock::now())));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "that a release is used is not noted");
    }
}

impl Release {
    /// Removes from the directory of [`Release::fetch`] what `named` does not name and nobody has used for
    /// 30 days, and parts of downloads that were not gone on with for 7 days; how many files. While
    /// somebody fetches there it removes nothing. Blocks on the disk.
    ///
    /// # Errors
    /// The disk.
    pub fn remove_unused(directory: &Path, named: &BTreeSet<ReleaseId>) -> io::Result<usize> {
        let held = match File::open(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            held => held?,
        };
        if flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(0);
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let is_part = path.extension().is_some_and(|kind| kind == "part");
            let used = if is_part { metadata.modified()? } else { metadata.accessed()? };
            found.push(Found { path, used });
        }
        let unused = unused(&found, named, clock::now());
        for path in &unused {
            tracing::info!(path = %path.display(), "a release that nobody uses any more is removed");
            fs::remove_file(path)?;
        }
        Ok(unused.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn id(n: u8) -> ReleaseId {
        ReleaseId::of_index(&[n])
    }

    #[test]
    fn what_nobody_names_goes_a_month_after_it_was_used_and_a_broken_download_after_a_week() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let of = |name: String, days: u32| Found { path: Path::new("/d").join(name), used: now - days * DAY };
        let release = |n: u8, days: u32| of(format!("{}.release", id(n)), days);
        let part = |n: u8, days: u32| of(format!("{}.part", id(n)), days);
        let found = [
            release(1, 31),
            release(2, 31),
            release(3, 30),
            part(1, 8),
            part(2, 7),
            of("notes.release".into(), 900),
            of(id(4).to_string(), 900),
            of(format!("{}.txt", id(4)), 900),
            Found { used: now + DAY, ..release(5, 0) },
        ];
        let unused = unused(&found, &[id(1)].into(), now);
        assert_eq!(unused, [&*found[1].path, &*found[3].path]);
    }

    #[test]
    fn while_one_is_fetched_or_opened_nothing_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{}.release", id(1)));
        fs::write(&path, "x").unwrap();
        let long_ago = SystemTime::now() - 40 * DAY;
        File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(long_ago)).unwrap();
        let remove = || Release::remove_unused(directory.path(), &BTreeSet::new()).unwrap();
        let held = Held::take(directory.path()).unwrap();
        assert_eq!(remove(), 0);
        drop(held);
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        touch(&path);
        assert_eq!((remove(), fs::metadata(&path).unwrap().modified().unwrap()), (0, written));
        File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(long_ago)).unwrap();
        assert_eq!((remove(), path.exists()), (1, false));
        assert_eq!(Release::remove_unused(&path, &BTreeSet::new()).unwrap(), 0, "there is no directory");
    }
}
