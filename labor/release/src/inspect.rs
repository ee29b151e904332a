use std::collections::HashSet;
use std::path::{Path, PathBuf};

use overseer_protocol::ReleaseId;
use serde::Serialize;

use crate::archive_reader::{Content, from_io, read_archive};
use crate::index::Digest;
use crate::manifest::Manifest;
use crate::package::{Package, PackageError};
use crate::trust::Verified;
use crate::unpack::UnpackError;

/// What is in a package, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The release's id.
    pub id: ReleaseId,
    /// Name, version, kind, target and all else that it declares.
    pub manifest: Manifest,
    /// Bytes unpacked, as an archive.
    pub size: u64,
    /// Bytes of the package.
    pub package_size: u64,
    /// How many chunks it has.
    pub chunks: usize,
    /// How many of them differ: what a node without any has to fetch.
    pub distinct_chunks: usize,
    /// Who signed it.
    pub signatures: Vec<SignatureCheck>,
    /// In the archive's order.
    pub entries: Vec<InspectedEntry>,
}

/// One signature of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureCheck {
    /// 64 hexadecimal digits.
    pub key: String,
    /// Whether it is this key's signature of this release. Says nothing about trust.
    pub good: bool,
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedEntry {
    /// In the archive.
    pub path: String,
    /// What is there.
    #[serde(flatten)]
    pub content: InspectedContent,
}

/// What an entry of an archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InspectedContent {
    /// A directory.
    Directory,
    /// A relative link.
    Link {
        /// Where it points to.
        target: String,
    },
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// BLAKE3.
        digest: Digest,
        /// Mode 0755, else 0644.
        executable: bool,
    },
}

/// Why a package cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// What is in it is damaged.
    #[error("{}: {error}", path.display())]
    Content {
        /// The package.
        path: PathBuf,
        /// What is wrong.
        error: UnpackError,
    },
}

impl InspectError {
    /// A stable code, such as `release.package_damaged`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Package(error) => error.code(),
            Self::Content { error, .. } => error.code(),
        }
    }
}

/// Reads a package to its end and checks everything but trust, target and limits. Writes nothing.
///
/// # Errors
/// The first thing in it that is damaged.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let package = Package::open(path)?;
    let package_size =
        std::fs::metadata(path).map_err(|source| PackageError::Io { path: path.to_owned(), source })?.len();
    let index = package.index();
    let verified = Verified::unchecked(index.clone(), package.id(), u64::MAX);
    let mut entries = Vec::new();
    read_archive(
        &verified,
        |chunk| package.read_chunk(chunk).map_err(Into::into),
        |path, content| {
            let content = inspect_content(content)?;
            entries.push(InspectedEntry { path: path.to_string(), content });
            Ok(())
        },
    )
    .map_err(|error| InspectError::Content { path: path.to_owned(), error })?;
    let signatures = package.signatures().iter().map(|signature| SignatureCheck {
        key: data_encoding::HEXLOWER.encode(&signature.key),
        good: signature.verifies(package.index_bytes()),
    });
    Ok(Inspection {
        id: package.id(),
        manifest: index.manifest.clone(),
        size: index.size,
        package_size,
        chunks: index.chunks.len(),
        distinct_chunks: index.chunks.iter().map(|chunk| chunk.digest).collect::<HashSet<_>>().len(),
        signatures: signatures.collect(),
        entries,
    })
}

fn inspect_content(content: Content<'_>) -> Result<InspectedContent, UnpackError> {
    Ok(match content {
        Content::Directory => InspectedContent::Directory,
        Content::Link(target) => InspectedContent::Link { target: target.to_owned() },
        Content::File { executable, size, data } => {
            let mut hasher = blake3::Hasher::new();
            let mut buffer = [0; 16 * 1024];
            loop {
                match data.read(&mut buffer).map_err(from_io)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                };
            }
            InspectedContent::File { size, digest: Digest(*hasher.finalize().as_bytes()), executable }
        }
    })
}
