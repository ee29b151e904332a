//! Releases: what a labor runs. Pack and verify, with no network and no runtime.
//!
//! A release is a directory with a [`Manifest`] (`release.toml`), packed as a reproducible tar.
//! The raw tar is cut by content into [chunks](IndexChunk), so that two versions share most of
//! them. The [`Index`] names the chunks and holds the manifest; its digest is the release's id,
//! and it is what a [`SigningKey`] signs. A [`Package`] is all of it in one file.
//!
//! ```text
//!   pack / ReleaseBuilder ──► Package ──► index, signatures ──► verify(Trust) ──► Verified
//!                                └─► read_chunk ──► (wire) ──► unpack(Verified) ──► directory
//! ```
//!
//! Nothing is where it could run before it is verified: [`verify`] reads an index only after its
//! signature, [`unpack`] reads a chunk only after its digest, and moves the directory into place
//! after the last check. Whatever is refused is a [`Refused`] with a stable code.

mod archive_reader;
mod builder;
mod chunk;
mod index;
mod inspect;
mod key;
mod manifest;
mod manifest_file;
mod pack;
mod package;
mod package_writer;
mod path;
mod refused;
mod tree;
mod trust;
mod unpack;

pub use builder::ReleaseBuilder;
pub use chunk::{ChunkDecoder, StoredChunk};
pub use index::{AVERAGE_CHUNK, Digest, INDEX_FORMAT, Index, IndexChunk, MAX_CHUNK, MAX_INDEX, MIN_CHUNK};
pub use inspect::{InspectError, InspectedContent, InspectedEntry, Inspection, SignatureCheck, inspect};
pub use key::{KeyError, PublicKey, Signature, SigningKey, keygen};
pub use manifest::{
    DEFAULT_ABI, FieldError, HOST_TARGET, Kind, MANIFEST_FILE, MAX_CONCURRENCY, Manifest, Mode, Restart,
};
pub use manifest_file::{MAX_MANIFEST, ManifestError};
pub use overseer_protocol::ReleaseId;
pub use pack::{PackError, Packed, pack};
pub use package::{Package, PackageError};
pub use path::{ArchivePath, MAX_PATH, PathFault};
pub use refused::Refused;
pub use trust::{MAX_SIGNATURES, Trust, Unsigned, Verified, verify};
pub use unpack::{ChunkSource, PARTIAL_PREFIX, SourceError, UnpackError, remove_partials, unpack};
