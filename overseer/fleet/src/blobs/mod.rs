//! Bytes by their digest: releases, logs, artifacts, large payloads. [`DirectoryBlobs`] keeps
//! them as files.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod directory;

use std::path::Path;
use std::pin::Pin;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::io::AsyncRead;

pub use self::directory::DirectoryBlobs;

/// BLAKE3 of a blob's bytes, as 64 lower-case hexadecimal digits.
pub type Digest = String;

/// A blob being read.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its address.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// A blob in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub info: BlobInfo,
    /// When it was put last, by the clock of whoever keeps it.
    pub put_at: SystemTime,
}

/// Why bytes could not be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No blob of that digest.
    #[error("there is no blob {0}; it was never stored or has been removed")]
    Missing(Digest),
    /// Not 64 lower-case hexadecimal digits.
    #[error("{0:?} is no digest; expected 64 lower-case hexadecimal digits")]
    BadDigest(String),
    /// Over the limit that the caller gave.
    #[error("the blob is larger than the {limit} bytes allowed; store less or raise the limit")]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// The bytes do not have the digest that they are kept under.
    #[error("blob {0} is damaged: its bytes have another digest; remove it and store it again")]
    Damaged(Digest),
    /// The bytes to be kept could not be read.
    #[error("the bytes to be stored could not be read from {place}: {source}; nothing was stored")]
    Source {
        /// File or stream.
        place: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The disk or the network.
    #[error("blobs in {place}: {source}; check space and permissions there")]
    Io {
        /// Directory or bucket.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BlobError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "blobs.missing",
            Self::BadDigest(_) => "blobs.bad_digest",
            Self::TooLarge { .. } => "blobs.too_large",
            Self::Damaged(_) => "blobs.damaged",
            Self::Source { .. } => "blobs.source",
            Self::Io { .. } => "blobs.io",
        }
    }
}

/// Checks an address.
///
/// # Errors
/// [`BlobError::BadDigest`].
pub fn check_digest(digest: &str) -> Result<(), BlobError> {
    let good = digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(()) } else { Err(BlobError::BadDigest(digest.chars().take(80).collect())) }
}

/// Content-addressed bytes.
#[async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// Keeps all bytes of the reader; twice the same bytes is one blob. Nothing is kept when it
    /// fails or is dropped half-way.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::Source`], [`BlobError::Io`].
    async fn put(&self, reader: Reader, limit: u64) -> Result<BlobInfo, BlobError>;

    /// Keeps a file's bytes.
    ///
    /// # Errors
    /// [`BlobError::Source`], [`BlobError::Io`].
    async fn put_file(&self, path: &Path) -> Result<BlobInfo, BlobError>;

    /// The bytes of a blob. The reader fails at its end, with [`BlobError::Damaged`] inside an
    /// error of kind `InvalidData`, when they do not have the digest.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::BadDigest`], [`BlobError::Io`].
    async fn get(&self, digest: &str) -> Result<(BlobInfo, Reader), BlobError>;

    /// Whether it is there, and how large.
    ///
    /// # Errors
    /// [`BlobError::BadDigest`], [`BlobError::Io`].
    async fn stat(&self, digest: &str) -> Result<Option<BlobInfo>, BlobError>;

    /// Removes a blob; fine when it is not there.
    ///
    /// # Errors
    /// [`BlobError::BadDigest`], [`BlobError::Io`].
    async fn remove(&self, digest: &str) -> Result<(), BlobError>;

    /// Removes a blob if it was not put again since it was listed with this time; whether it was
    /// removed. Two puts within the same second may not be told apart.
    ///
    /// # Errors
    /// [`BlobError::BadDigest`], [`BlobError::Io`].
    async fn remove_unless_put(&self, digest: &str, since: SystemTime) -> Result<bool, BlobError>;

    /// All blobs, in order of digest.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    async fn list(&self) -> Result<Vec<Listed>, BlobError>;
}
