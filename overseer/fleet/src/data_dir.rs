//! Where a server keeps everything: a private directory with its store and its blobs.

mod ephemeral;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::ephemeral::Lease;
use crate::blobs::{BlobError, DirectoryBlobs};
use crate::condition::Condition;
use crate::store::redb::Options;
use crate::store::{Durability, RedbStore, StoreError};

/// The file of [`DataDir::store`].
const STORE: &str = "store.redb";
/// Where a control plane keeps what tasks and plugin hosts write.
pub(crate) const LOGS: &str = "logs";
/// Where a control plane keeps large payloads of calls.
pub(crate) const PAYLOADS: &str = "payloads";
/// Where [`DataDir::task_blobs`] are.
pub(crate) const TASK_BLOBS: &str = "task-blobs";
/// Where [`DataDir::blobs`] are.
pub(crate) const BLOBS: &str = "blobs";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something else is there.
    #[error("{} is not a directory; remove it or choose another data directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// No server has ever kept anything there.
    #[error("{} is no data directory: there is no store.redb in it; give the one that the server uses", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// What servers have kept there is there still, but their store is not.
    #[error("{} has lost its store: store.redb is not there, and {part}/ is not empty; put store.redb back, or move the directory away and import an export to its place (`overseer store import`); who has neither removes it or chooses another data directory", path.display())]
    StoreLost {
        /// The directory.
        path: PathBuf,
        /// What of it is there.
        part: &'static str,
    },
    /// It belongs to somebody else, who could read or change what is in it.
    #[error("{} belongs to user {owner}, this process runs as user {us}; choose another data directory or run as its owner", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Our user id.
        us: u32,
    },
    /// Others may write to it.
    #[error("{} may be written by others (mode {mode:03o}); run `chmod 700` on it", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The disk.
    #[error("{} cannot be used: {source}; check space and permissions there", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

impl DataDirError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotADirectory { .. } => "data_dir.not_a_directory",
            Self::NoStore { .. } => "data_dir.no_store",
            Self::StoreLost { .. } => "data_dir.store_lost",
            Self::ForeignOwner { .. } => "data_dir.foreign_owner",
            Self::OpenToOthers { .. } => "data_dir.open_to_others",
            Self::Io { .. } => "data_dir.io",
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
        }
    }
}

/// An open data directory: `store.redb`, `task-blobs/` and `blobs/`.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    store: Arc<RedbStore>,
    task_blobs: Arc<DirectoryBlobs>,
    blobs: Arc<DirectoryBlobs>,
    condition: Arc<Condition>,
    /// Removes the directory when it goes.
    lease: Option<Lease>,
}

impl DataDir {
    /// Opens a directory of our own, or makes it (mode 0700). What is stored survives the loss
    /// of power.
    ///
    /// # Errors
    /// Each [`DataDirError`]; then nothing was changed, but that the directory may exist now.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|source| DataDirError::Io { path: path.as_ref().to_owned(), source })?;
        private_directory(&path)?;
        has_store_or_nothing(&path)?;
        Self::open_parts(path, Options::new(Durability::Fsync), None)
    }

    /// Opens a directory that is there already, as it is: no store is made, and one of an older
    /// schema is not raised to ours. As with any opening, the blobs' directory is made where it is
    /// missing and half-written blobs are swept, and keys end whose lease runs out meanwhile.
    ///
    /// # Errors
    /// Each [`DataDirError`]; then nothing was changed.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|source| DataDirError::Io { path: path.as_ref().to_owned(), source })?;
        match fs::metadata(path.join(STORE)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataDirError::NoStore { path });
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(DataDirError::NotADirectory { path });
            }
            Err(source) => return Err(DataDirError::Io { path, source }),
        }
        private_directory(&path)?;
        let as_it_is = Options { migrate: false, ..Options::new(Durability::Fsync) };
        Self::open_parts(path, as_it_is, None)
    }

    /// A directory that lives as long as this value, in `XDG_RUNTIME_DIR` or `TMPDIR`. What
    /// processes that were killed have left there is removed.
    ///
    /// # Errors
    /// Each [`DataDirError`].
    pub fn ephemeral() -> Result<Self, DataDirError> {
        Self::ephemeral_in(&ephemeral::base())
    }

    /// As [`DataDir::ephemeral`], below a directory of the caller's choice.
    ///
    /// # Errors
    /// Each [`DataDirError`].
    pub fn ephemeral_in(base: &Path) -> Result<Self, DataDirError> {
        let lease = Lease::take(base)?;
        Self::open_parts(lease.path().to_owned(), Options::new(Durability::Ephemeral), Some(lease))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its store.
    pub fn store(&self) -> Arc<RedbStore> {
        self.store.clone()
    }

    /// Large payloads and results of tasks. What no task names is removed.
    pub fn task_blobs(&self) -> Arc<DirectoryBlobs> {
        self.task_blobs.clone()
    }

    /// All other blobs, which are kept until somebody removes them.
    pub fn blobs(&self) -> Arc<DirectoryBlobs> {
        self.blobs.clone()
    }

    /// What of it can be written.
    pub fn condition(&self) -> Arc<Condition> {
        Arc::clone(&self.condition)
    }

    /// Whether it goes with this value.
    pub fn is_ephemeral(&self) -> bool {
        self.lease.is_some()
    }

    fn open_parts(path: PathBuf, options: Options, lease: Option<Lease>) -> Result<Self, DataDirError> {
        // The store first: its lock tells whether another process is here.
        let (durability, condition) = (options.durability, Arc::clone(&options.condition));
        let store = Arc::new(RedbStore::open_with(path.join(STORE), options)?);
        let open = |name| {
            let blobs = DirectoryBlobs::open_telling(path.join(name), durability, Arc::clone(&condition));
            blobs.map(Arc::new)
        };
        adopt_blobs(&path)?;
        let (task_blobs, blobs) = (open(TASK_BLOBS)?, open(BLOBS)?);
        Ok(Self { path, store, task_blobs, blobs, condition, lease })
    }
}

/// A new store beside what another one has named would not know any of it, and it would be removed.
fn has_store_or_nothing(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    if path.join(STORE).try_exists().map_err(failed)? {
        return Ok(());
    }
    for part in [TASK_BLOBS, BLOBS, LOGS, PAYLOADS] {
        if has_bytes(&path.join(part)).map_err(failed)? {
            return Err(DataDirError::StoreLost { path: path.to_owned(), part });
        }
    }
    Ok(())
}

/// Whether a file with anything in it is below this path: a lock has nothing in it.
fn has_bytes(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => has_bytes(&entry.path())?,
            false => entry.metadata()?.len() > 0,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Before there was a place of their own, those of tasks were all that a server kept in `blobs/`.
fn adopt_blobs(path: &Path) -> Result<(), DataDirError> {
    let (old, new) = (path.join(BLOBS), path.join(TASK_BLOBS));
    if old.is_dir() && !new.exists() {
        fs::rename(old, new).map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Makes the directory, or checks that it is ours alone to write.
fn private_directory(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
            return Err(DataDirError::NotADirectory { path: path.to_owned() });
        }
        Err(error) => return Err(failed(error)),
    }
    let metadata = fs::metadata(path).map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(DataDirError::ForeignOwner { path: path.to_owned(), owner: metadata.uid(), us });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(DataDirError::OpenToOthers { path: path.to_owned(), mode });
    }
    Ok(())
}
