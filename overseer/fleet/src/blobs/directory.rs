//! Blobs as files of one directory: `ab/cd/abcd…`, each complete from the moment it has its name.

mod incoming;
#[cfg(test)]
mod tests;
mod verified;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::io::AsyncReadExt;

use self::incoming::Incoming;
use self::verified::Verified;
use super::{BlobError, BlobInfo, Blobs, Digest, Listed, Reader, check_digest};
use crate::condition::{Condition, Part};
use crate::store::Durability;

/// Bytes that are read, hashed and written at once.
const CHUNK: usize = 256 * 1024;
/// Where files grow until they have a name.
const NEW: &str = "new";
const LOCK: &str = "lock";

/// [`Blobs`] in a local directory of mode 0700. Several processes may share it, but for
/// [`Blobs::remove_unless_put`], which knows of the puts through this value and its clones only.
#[derive(Debug, Clone)]
pub struct DirectoryBlobs {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    directory: PathBuf,
    durability: Durability,
    condition: Arc<Condition>,
    /// Held while a blob gets its name, or loses it for its age.
    naming: Mutex<()>,
    /// Held shared as long as somebody may have a file in `new`.
    _lock: File,
}

impl DirectoryBlobs {
    /// Opens the directory, or makes it; what was stored survives the loss of power. Half-written
    /// files of processes that have died are removed.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, BlobError> {
        Self::open_with(directory, Durability::Fsync)
    }

    /// As [`DirectoryBlobs::open`], with a choice of what a stored blob survives.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    pub fn open_with(directory: impl AsRef<Path>, durability: Durability) -> Result<Self, BlobError> {
        Self::open_telling(directory, durability, Arc::default())
    }

    /// As [`DirectoryBlobs::open_with`]; that the disk takes nothing is told to `condition`.
    pub(crate) fn open_telling(
        directory: impl AsRef<Path>,
        durability: Durability,
        condition: Arc<Condition>,
    ) -> Result<Self, BlobError> {
        let failed = |source| BlobError::Io { place: directory.as_ref().display().to_string(), source };
        let directory = std::path::absolute(directory.as_ref()).map_err(failed)?;
        let failed = |source| BlobError::Io { place: directory.display().to_string(), source };
        let lock = prepare(&directory).map_err(failed)?;
        Ok(Self {
            place: Arc::new(Place {
                directory,
                durability,
                condition,
                naming: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// Takes a blob in without giving it its name yet.
    pub(crate) async fn receive(&self, mut reader: Reader, limit: u64) -> Result<Received, BlobError> {
        let mut incoming = self.blocking(Incoming::new).await?;
        let (mut filling, mut written) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        let mut size = 0u64;
        loop {
            // One chunk is written while the next one is read.
            let writing = self.blocking(move |place| {
                incoming.write(place, &written)?;
                Ok((incoming, written))
            });
            filling.clear();
            let mut chunk = (&mut reader).take(CHUNK as u64);
            let (read, wrote) = tokio::join!(chunk.read_to_end(&mut filling), writing);
            read.map_err(|source| BlobError::Source { place: "its stream".into(), source })?;
            (incoming, written) = wrote?;
            size = size.saturating_add(filling.len() as u64);
            if size > limit {
                return Err(BlobError::TooLarge { limit });
            }
            if filling.is_empty() {
                break;
            }
            std::mem::swap(&mut filling, &mut written);
        }
        Ok(Received(incoming))
    }

    /// Gives what was received its name.
    pub(crate) async fn keep(&self, received: Received) -> Result<BlobInfo, BlobError> {
        self.blocking(move |place| received.0.keep(place)).await
    }

    /// Removes a blob where waiting is not possible, as in a drop; one that cannot be removed now
    /// goes with the directory.
    pub(crate) fn remove_now(&self, digest: &str) {
        if let Ok(path) = self.place.path_of(digest) {
            let _ = fs::remove_file(path);
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let place = self.place.clone();
        let name = self.place.name();
        tokio::task::spawn_blocking(move || work(&place))
            .await
            .unwrap_or_else(|error| Err(BlobError::Io { place: name, source: io::Error::other(error) }))
    }
}

/// A blob that is complete and has no name yet; dropped, it leaves nothing.
pub(crate) struct Received(Incoming);

impl Received {
    /// The name that it will have.
    pub(crate) fn digest(&self) -> Digest {
        self.0.digest()
    }
}

impl Place {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    fn io(&self, source: io::Error) -> BlobError {
        self.condition.saw(Part::Blobs, &self.directory, &source);
        BlobError::Io { place: self.name(), source }
    }

    fn path_of(&self, digest: &str) -> Result<PathBuf, BlobError> {
        check_digest(digest)?;
        Ok(self.directory.join(&digest[..2]).join(&digest[2..4]).join(digest))
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut blobs = Vec::new();
        for outer in folders(&self.directory)? {
            for inner in folders(&outer)? {
                for entry in fs::read_dir(inner)? {
                    let entry = entry?;
                    let name = entry.file_name();
                    let Some(digest) = name.to_str().filter(|n| check_digest(n).is_ok()) else { continue };
                    match entry.metadata() {
                        Ok(metadata) => blobs.push(Listed {
                            info: BlobInfo { digest: digest.to_owned(), size: metadata.len() },
                            put_at: metadata.modified()?,
                        }),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        blobs.sort_by(|a, b| a.info.digest.cmp(&b.info.digest));
        Ok(blobs)
    }
}

/// The directories of the fan-out below `directory`: those with a name of two digits.
fn folders(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().len() == 2 && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes the directory and sweeps it if nobody else has it open.
fn prepare(directory: &Path) -> io::Result<File> {
    let new = directory.join(NEW);
    make_private(&new)?;
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        for entry in fs::read_dir(&new)? {
            fs::remove_file(entry?.path())?;
        }
    }
    // Waits only while another opener sweeps.
    rustix::fs::flock(&lock, FlockOperation::LockShared)?;
    Ok(lock)
}

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, reader: Reader, limit: u64) -> Result<BlobInfo, BlobError> {
        let received = self.receive(reader, limit).await?;
        self.keep(received).await
    }

    async fn put_file(&self, path: &Path) -> Result<BlobInfo, BlobError> {
        let path = path.to_owned();
        self.blocking(move |place| {
            let mut incoming = Incoming::new(place)?;
            incoming.copy(place, &path)?;
            incoming.keep(place)
        })
        .await
    }

    async fn get(&self, digest: &str) -> Result<(BlobInfo, Reader), BlobError> {
        let path = self.place.path_of(digest)?;
        let digest = digest.to_owned();
        self.blocking(move |place| {
            let file = File::open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => BlobError::Missing(digest.clone()),
                _ => place.io(error),
            })?;
            let size = file.metadata().map_err(|error| place.io(error))?.len();
            let reader: Reader = Box::pin(Verified::new(file, digest.clone()));
            Ok((BlobInfo { digest, size }, reader))
        })
        .await
    }

    async fn stat(&self, digest: &str) -> Result<Option<BlobInfo>, BlobError> {
        let path = self.place.path_of(digest)?;
        let digest = digest.to_owned();
        self.blocking(move |place| match fs::metadata(path) {
            Ok(metadata) => Ok(Some(BlobInfo { digest, size: metadata.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(place.io(error)),
        })
        .await
    }

    async fn remove(&self, digest: &str) -> Result<(), BlobError> {
        let path = self.place.path_of(digest)?;
        self.blocking(move |place| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(place.io(error)),
            _ => Ok(()),
        })
        .await
    }

    async fn remove_unless_put(&self, digest: &str, since: SystemTime) -> Result<bool, BlobError> {
        let path = self.place.path_of(digest)?;
        self.blocking(move |place| {
            // Nobody names it again between the look and the removal.
            let _naming = place.naming.lock();
            let removed = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                Ok(put_at) if put_at == since => fs::remove_file(&path).map(|()| true),
                Ok(_) => Ok(false),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                removed => removed.map_err(|error| place.io(error)),
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Listed>, BlobError> {
        self.blocking(|place| place.list().map_err(|error| place.io(error))).await
    }
}
