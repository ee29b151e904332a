//! A blob being written: hashed as it goes, without a name until it is complete. Dropped before
//! that, it leaves nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::{CHUNK, NEW, Place, make_private};
use crate::blobs::{BlobError, BlobInfo, Digest};
use crate::store::Durability;

/// A file without a name, and the digest of what is in it.
pub(super) struct Incoming {
    file: NamedTempFile,
    hasher: blake3::Hasher,
    size: u64,
}

impl Incoming {
    pub(super) fn new(place: &Place) -> Result<Self, BlobError> {
        let file = tempfile::Builder::new().tempfile_in(place.directory.join(NEW));
        Ok(Self { file: file.map_err(|error| place.io(error))?, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Writes the chunk.
    pub(super) fn write(&mut self, place: &Place, chunk: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(chunk);
        self.size += chunk.len() as u64;
        self.file.as_file_mut().write_all(chunk).map_err(|error| place.io(error))
    }

    /// Writes all of a file, reading it once.
    pub(super) fn copy(&mut self, place: &Place, path: &Path) -> Result<(), BlobError> {
        let broken = |source| BlobError::Source { place: path.display().to_string(), source };
        // Not a pipe or a device: that could wait for ever, or never end.
        if !fs::metadata(path).map_err(broken)?.is_file() {
            return Err(broken(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let mut file = File::open(path).map_err(broken)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write(place, &chunk[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Of what was written so far.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Gives the file its name. One that is there already is replaced: it has the same bytes, or
    /// was damaged.
    pub(super) fn keep(self, place: &Place) -> Result<BlobInfo, BlobError> {
        let digest = self.digest();
        let path = place.path_of(&digest)?;
        let kept = (|| {
            if place.durability == Durability::Fsync {
                self.file.as_file().sync_data()?;
            }
            let directory = path.parent().unwrap_or(&place.directory);
            let (_, temporary) = self.file.into_parts();
            let naming = place.naming.lock();
            let named = temporary.persist(&path);
            drop(naming);
            if let Err(error) = named {
                if error.error.kind() != io::ErrorKind::NotFound {
                    return Err(error.error);
                }
                make_private(directory)?;
                let naming = place.naming.lock();
                error.path.persist(&path)?;
                drop(naming);
                if place.durability == Durability::Fsync {
                    sync_directories(&place.directory, directory)?;
                }
            }
            if place.durability == Durability::Fsync {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        })();
        kept.map_err(|error| place.io(error))?;
        Ok(BlobInfo { digest, size: self.size })
    }
}

/// Makes new directories of the fan-out survive: each is an entry of the one above it.
fn sync_directories(top: &Path, below: &Path) -> io::Result<()> {
    for directory in below.ancestors().skip(1).take_while(|d| d.starts_with(top)) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}
