//! What the agents of a host keep of releases, so that a chunk travels to the host once.
//!
//! One file for each release, [`Kept`]: what was signed of it, which of its chunks are there, and those
//! chunks as they travelled. An agent that runs a release holds a shared lock on its file. Making a file
//! is dear on many a file system, so a chunk has none of its own; two versions of a release have the
//! chunks that they share each, which costs room on the disk and makes each the only owner of its file.
//!
//! Nothing is synced: whatever is read here is verified before it is used, so a file that is cut, damaged
//! or forged costs a fetch and nothing else. Agents may be killed at any moment. A cache that can only be
//! read is read.

mod eviction;
mod kept;
#[cfg(test)]
mod tests;

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use overseer_protocol::{ReleaseCache, ReleaseId, proto};
use overseer_release::IndexChunk;
use rustix::fs::OFlags;

pub(crate) use self::kept::{InUse, Kept};

/// Where it is below an agent's own directory.
const BELOW_DIRECTORY: &str = "cache";
/// How a file's name begins until it is complete.
const PARTIAL: &str = ".partial-";
/// How often a file that goes while it is taken up is made anew.
const TRIES: usize = 4;
/// Other releases that are looked at for chunks, those that were used last.
const LOOKED_AT: usize = 64;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostCacheError {
    #[error("the cache of releases {path} cannot be used: {source}; name another one with --cache")]
    Io { path: String, source: io::Error },
    #[error(
        "the cache of releases {path} is another user's ({owner}); name another one with --cache, or give it to this user"
    )]
    Foreign { path: String, owner: u32 },
}

/// A cache that can be used.
#[derive(Debug)]
pub(crate) struct HostCache {
    root: PathBuf,
    releases: PathBuf,
    quota: u64,
    complained: AtomicBool,
}

impl HostCache {
    /// The one that an agent is told to have, or none; `own` is the agent's directory, where that
    /// outlives it.
    ///
    /// # Errors
    /// It cannot be made or entered, or is another user's.
    pub(crate) fn open(told: &ReleaseCache, own: Option<&Path>) -> Result<Option<Self>, HostCacheError> {
        let root = match (&told.directory, own) {
            (Some(directory), _) => directory.clone(),
            (None, Some(own)) => own.join(BELOW_DIRECTORY),
            (None, None) => return Ok(None),
        };
        if told.quota == 0 {
            return Ok(None);
        }
        let releases = root.join("releases");
        for directory in [&root, &releases] {
            let path = directory.display().to_string();
            let owner = match make_directory(directory) {
                Ok(owner) => owner,
                Err(source) => return Err(HostCacheError::Io { path, source }),
            };
            if owner != rustix::process::geteuid().as_raw() {
                return Err(HostCacheError::Foreign { path, owner });
            }
        }
        Ok(Some(Self { root, releases, quota: told.quota, complained: AtomicBool::new(false) }))
    }

    /// Whether no release was ever kept here, so that the first one must be fetched.
    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.releases).map_or(true, |mut entries| entries.next().is_none())
    }

    /// What is kept of a release, which is in use from now on. None of it is verified, but that the
    /// index is that of the release.
    pub(crate) fn find(&self, id: ReleaseId) -> Option<Kept> {
        let file = open_file(&self.path(id)).ok()?;
        let kept = Kept::lock(file).ok()?;
        if ReleaseId::of_index(&kept.reply().index) != id {
            return None;
        }
        kept.used();
        Some(kept)
    }

    /// Keeps a release of these chunks, of which none is there yet, unless another agent has them.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep(
        &self,
        id: ReleaseId,
        reply: &proto::ReleaseIndexReply,
        chunks: &[IndexChunk],
    ) -> io::Result<Kept> {
        let path = self.path(id);
        for _ in 0..TRIES {
            match self.find(id) {
                Some(kept) if kept.reply() == reply => return Ok(kept),
                // Damaged, or signed by others. Who has it in use loses a lock, not the release.
                _ => remove_file(&path)?,
            }
            let aside = self.aside();
            let made = Kept::make(&aside, reply, chunks);
            // Never over one that another agent has put there meanwhile, and locked.
            let linked = made.and_then(|()| fs::hard_link(&aside, &path));
            remove_file(&aside)?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(io::Error::other("another agent removes what this one writes"))
    }

    /// What is kept of some other releases; what was used last comes first.
    pub(crate) fn others(&self, id: ReleaseId) -> impl Iterator<Item = Kept> {
        let mut others: Vec<Entry> = self.entries().unwrap_or_default();
        others.retain(|other| other.path != self.path(id));
        others.sort_by(|one, other| other.cmp(one));
        let open = |other: Entry| Kept::lock(open_file(&other.path).ok()?).ok();
        others.into_iter().take(LOOKED_AT).filter_map(open)
    }

    /// Says once what is wrong with the cache. Nothing that an agent does depends on it.
    pub(crate) fn complain(&self, why: &dyn std::fmt::Display) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let root = self.root.display();
            tracing::warn!(
                "the cache of releases {root} cannot be used as it should be: {why}; make room there, or name another one with --cache"
            );
        }
    }

    fn path(&self, id: ReleaseId) -> PathBuf {
        self.releases.join(id.to_string())
    }

    /// A path that nobody else has, agents in other containers among them.
    fn aside(&self) -> PathBuf {
        let random = crate::backoff::system_random();
        self.releases.join(format!("{PARTIAL}{random:016x}-{}", std::process::id()))
    }

    /// The files of releases; what a killed agent has left half written is not among them.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let all = fs::read_dir(&self.releases)?.map(|entry| Entry::of(&entry?));
        all.filter_map(Result::transpose).collect()
    }
}

/// A file of the cache.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    /// That it takes on the disk.
    bytes: u64,
}

impl Entry {
    /// None where it is no complete file of ours.
    fn of(entry: &DirEntry) -> io::Result<Option<Self>> {
        let meta = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            meta => meta?,
        };
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !meta.is_file() || name.len() != 64 || !name.iter().all(u8::is_ascii_hexdigit) {
            return Ok(None);
        }
        Ok(Some(Self { used: meta.modified()?, path: entry.path(), bytes: meta.blocks() * 512 }))
    }
}

/// Makes it where it is not there; gives its owner.
fn make_directory(path: &Path) -> io::Result<u32> {
    if !path.is_dir() {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    }
    Ok(fs::metadata(path)?.uid())
}

/// Opens a plain file, for reading only where it cannot be written. A link is not followed, a pipe not
/// waited for.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let open = |write| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    let file = match open(true) {
        Err(error) if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {
            open(false)?
        }
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(ErrorKind::InvalidData, "it is no plain file"))
}

/// Whoever was faster has removed it as well.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
