//! A package in a file that nobody else writes to.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{Package, PackageError, damaged};

/// Bytes that are copied at once.
const STEP: usize = 1 << 20;

/// What of a file changes whenever somebody writes to it: its length, and when it was written to, in
/// seconds and nanoseconds. Another name for it, or none any more, changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) length: u64,
    written: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { length: metadata.len(), written: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

impl Package {
    /// Copies the whole package to `file`, which is empty and which nobody else writes to: a
    /// package that stays what it is, whatever happens to the first file. What it is called in
    /// errors is `path`.
    ///
    /// # Errors
    /// [`PackageError::Changed`] if the first file is no longer what was opened; the file system.
    pub fn copy_to(&self, mut file: File, path: &Path) -> Result<Self, PackageError> {
        let (from, to) = (self.io(), |source| PackageError::Io { path: path.to_owned(), source });
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        while at < self.stamp.length {
            let step = usize::try_from(self.stamp.length - at).map_or(STEP, |left| left.min(STEP));
            let read = self.file.read_at(&mut buffer[..step], at).map_err(&from)?;
            if read == 0 {
                return Err(self.changed());
            }
            file.write_all(&buffer[..read]).map_err(to)?;
            at += read as u64;
        }
        // Only now: what was written to it while it was read shows here.
        if Stamp::of(&self.file).map_err(from)? != self.stamp {
            return Err(self.changed());
        }
        let copy = Self::read(file, path)?;
        if copy.id != self.id {
            return Err(PackageError::Refused {
                path: path.to_owned(),
                refused: damaged("the copy is not what was copied"),
            });
        }
        Ok(copy)
    }

    fn changed(&self) -> PackageError {
        PackageError::Changed { path: self.path.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::{ReleaseBuilder, SigningKey};

    fn packed(directory: &Path) -> std::path::PathBuf {
        let program = directory.join("program");
        std::fs::write(&program, b"#!/bin/sh\nexit 0\n").unwrap();
        let path = directory.join("first.release");
        let key = SigningKey::ephemeral().unwrap();
        ReleaseBuilder::program("it", "1.0.0", program).sign(&key).write(&path).unwrap();
        path
    }

    #[test]
    fn a_copy_stays_what_it_is_when_the_first_file_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = packed(directory.path());
        let package = Package::open(&path).unwrap();
        let copy = package.copy_to(tempfile::tempfile().unwrap(), &path).unwrap();
        let before = package.read_chunk(0).unwrap().data;
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![7; usize::try_from(length).unwrap()]).unwrap();
        assert_ne!(package.read_chunk(0).unwrap().data, before);
        assert_eq!(copy.read_chunk(0).unwrap().data, before);
        assert_eq!((copy.id(), copy.signatures()), (package.id(), package.signatures()));
    }

    #[test]
    fn a_file_that_was_changed_since_it_was_opened_is_not_copied() {
        let directory = tempfile::tempdir().unwrap();
        let path = packed(directory.path());
        let package = Package::open(&path).unwrap();
        // One that was replaced as it should be is what it was.
        std::fs::rename(&path, directory.path().join("other")).unwrap();
        std::fs::remove_file(directory.path().join("other")).unwrap();
        package.copy_to(tempfile::tempfile().unwrap(), &path).unwrap();
        let package = Package::open(&packed(directory.path())).unwrap();
        // One byte of a chunk, in place: index and length are as before. The clock of a file system
        // does not tick between any two writes.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        while Stamp::of(&file).unwrap() == package.stamp {
            file.write_all_at(b"?", 40).unwrap();
        }
        let refused = package.copy_to(tempfile::tempfile().unwrap(), &path).unwrap_err();
        assert_eq!(refused.code(), "release.changed", "{refused}");
        File::create(&path).unwrap();
        let refused = package.copy_to(tempfile::tempfile().unwrap(), &path).unwrap_err();
        assert_eq!(refused.code(), "release.changed", "{refused}");
    }
}
