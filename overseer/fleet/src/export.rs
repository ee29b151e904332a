//! All that a data directory holds, as one file: to move a server, to keep a copy, to go back
//! before an update. It has the private key of the certificate authority in it, so it is made with
//! mode 0600 and is to be kept like a key.
//!
//! ```text
//! "overseer-export\n" | format u32 | schema u64 | zstd(records) | "export-end\n" | BLAKE3 of all before it
//! record: 1, key length u16, key, value length u32, value         an entry
//!         2, digest (32 bytes), length u64, bytes                 a payload or a result of tasks
//!         3, digest (32 bytes), length u64, bytes                 another blob (format 2)
//!         0, entries u64, blobs u64                               the end
//! ```
//!
//! Numbers are little-endian. Keys that end with a lease are left out: they tell of a process that
//! runs now. Logs are left out as well. What is written blocks: call it outside of async code.

mod form;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::PathBuf;

use serde::Serialize;

pub use self::read::import;
pub use self::write::export;
use crate::blobs::BlobError;
use crate::data_dir::DataDirError;
use crate::store::StoreError;

/// What was written or read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Entries of the store.
    pub entries: u64,
    /// Keys that were left out, for they end with a lease.
    pub leased: u64,
    /// Blobs of both kinds.
    pub blobs: u64,
    /// Bytes of the file, so far.
    pub bytes: u64,
}

/// Why there is no export, or it was not imported. Nothing is left then where it should have been.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Not a file that an export has made.
    #[error("{} is no export; give a file that `overseer store export` has made", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
    },
    /// Of a newer Overseer.
    #[error("{} has format {format} and schema {schema}, this Overseer knows up to {known_format} and {known_schema}; use the newer Overseer", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// Schema of its entries.
        schema: u64,
        /// Newest format of this build.
        known_format: u32,
        /// Newest schema of this build.
        known_schema: u64,
    },
    /// It does not end as an export does: it is cut short, or has something behind its end.
    #[error("{} does not end as an export does: it is cut short, or something was added to it; copy it again, or use another export", path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
    },
    /// Its bytes are not those that were written.
    #[error("{} is damaged: {reason}; copy it again, or use another export", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Something is there already.
    #[error("{} is there already; choose another place, or remove it first", path.display())]
    Exists {
        /// The file or directory.
        path: PathBuf,
    },
    /// The disk.
    #[error("{}: {source}; check space and permissions there", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

impl ExportError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotOne { .. } => "export.not_one",
            Self::Newer { .. } => "export.newer",
            Self::CutShort { .. } => "export.cut_short",
            Self::Damaged { .. } => "export.damaged",
            Self::Exists { .. } => "export.exists",
            Self::Io { .. } => "export.io",
            Self::DataDir(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
        }
    }
}
