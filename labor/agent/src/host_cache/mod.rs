//! What the agents of a host keep of releases, so that a chunk travels to the host once.
//!
//! | there | is |
//! |---|---|
//! | `chunks/DIGEST` | a chunk as it travelled: a zstd frame where it is shorter than the index says, else the raw bytes |
//! | `indexes/RELEASE` | what was signed of a release; each agent that runs it holds a shared lock on it |
//! | `eviction` | locked by the agent that evicts |
//!
//! Files are written under another name and moved into place, and not synced: whatever is read here
//! is verified before it is used, so a file that is cut, damaged or forged costs a fetch and nothing
//! else. Agents may be killed at any moment. A cache that can only be read is read.

mod eviction;
mod index;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use overseer_protocol::ReleaseCache;
use overseer_release::{Digest, IndexChunk, StoredChunk};
use rustix::fs::OFlags;

pub(crate) use self::index::InUse;

/// Where it is below an agent's own directory.
const BELOW_DIRECTORY: &str = "cache";
/// How a file's name begins until it is complete.
const PARTIAL: &str = ".partial-";
/// A file that was used more lately than this counts as used now.
const FRESH: Duration = Duration::from_secs(60);

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
    chunks: PathBuf,
    indexes: PathBuf,
    quota: u64,
    partials: AtomicU64,
    complained: AtomicBool,
}

/// A chunk that is written and not yet verified.
#[derive(Debug)]
pub(crate) struct Partial {
    from: PathBuf,
    to: PathBuf,
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
        let cache = Self {
            chunks: root.join("chunks"),
            indexes: root.join("indexes"),
            root,
            quota: told.quota,
            partials: AtomicU64::new(0),
            complained: AtomicBool::new(false),
        };
        for directory in [&cache.root, &cache.chunks, &cache.indexes] {
            let path = directory.display().to_string();
            let owner = match make_directory(directory) {
                Ok(owner) => owner,
                Err(source) => return Err(HostCacheError::Io { path, source }),
            };
            if owner != rustix::process::geteuid().as_raw() {
                return Err(HostCacheError::Foreign { path, owner });
            }
        }
        Ok(Some(cache))
    }

    /// Whether a chunk is there, as far as can be seen without reading it.
    pub(crate) fn has(&self, chunk: &IndexChunk) -> bool {
        let found = self.chunk(&chunk.digest).symlink_metadata();
        found.is_ok_and(|meta| meta.is_file() && fits(meta.len(), chunk))
    }

    /// Reads a chunk, unverified, and notes its use.
    ///
    /// # Errors
    /// It is not there, or nothing that could be it.
    pub(crate) fn read(&self, chunk: &IndexChunk) -> io::Result<StoredChunk> {
        let mut file = open_file(&self.chunk(&chunk.digest))?;
        let meta = file.metadata()?;
        if !fits(meta.len(), chunk) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another length than the chunk"));
        }
        let mut data = Vec::with_capacity(meta.len() as usize);
        (&mut file).take(meta.len()).read_to_end(&mut data)?;
        used(&file, &meta);
        Ok(StoredChunk { zstd: data.len() < chunk.size as usize, data })
    }

    /// Writes a chunk that came, aside: nobody reads it before [`HostCache::keep`]. None where it is
    /// there already.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, chunk: &IndexChunk, stored: &StoredChunk) -> io::Result<Option<Partial>> {
        if self.has(chunk) {
            return Ok(None);
        }
        let from = self.write_aside(&self.chunks, &stored.data)?;
        Ok(Some(Partial { from, to: self.chunk(&chunk.digest) }))
    }

    /// A chunk that was written is verified: from now on others find it.
    ///
    /// # Errors
    /// It cannot be moved into place.
    pub(crate) fn keep(&self, partial: Partial) -> io::Result<()> {
        let moved = fs::rename(&partial.from, &partial.to);
        if moved.is_err() {
            let _ = fs::remove_file(&partial.from);
        }
        moved
    }

    /// A chunk that was written is not what it should be.
    pub(crate) fn forget(&self, partial: Partial) {
        // What stays is removed with what killed agents have left.
        let _ = fs::remove_file(partial.from);
    }

    /// Removes a chunk that is not what its name says.
    pub(crate) fn remove(&self, digest: &Digest) {
        tracing::warn!("chunk {digest} of the cache {} is damaged; it is fetched again", self.root.display());
        if let Err(error) = fs::remove_file(self.chunk(digest)) {
            self.complain(&error);
        }
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

    fn chunk(&self, digest: &Digest) -> PathBuf {
        self.chunks.join(digest.to_string())
    }

    /// A new file with these bytes and a name that nobody looks for.
    fn write_aside(&self, directory: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
        let number = self.partials.fetch_add(1, Ordering::Relaxed);
        // Agents in containers may share a cache and have the same process id.
        let random = crate::backoff::system_random();
        let path = directory.join(format!("{PARTIAL}{random:016x}-{number}"));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes));
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(path)
    }
}

/// Makes it where it is not there; gives its owner.
fn make_directory(path: &Path) -> io::Result<u32> {
    if !path.is_dir() {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    }
    Ok(fs::metadata(path)?.uid())
}

fn fits(length: u64, chunk: &IndexChunk) -> bool {
    (1..=u64::from(chunk.size)).contains(&length)
}

/// Opens a plain file for reading. A link is not followed, a pipe not waited for.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it is no plain file"))
}

/// Notes that a file was used, by the time of its last change; not more often than can matter.
fn used(file: &File, meta: &fs::Metadata) {
    let now = SystemTime::now();
    let fresh = meta.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age < FRESH));
    if !fresh {
        // Where it cannot be noted it goes early.
        let _ = file.set_modified(now);
    }
}
