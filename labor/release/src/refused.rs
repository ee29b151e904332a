use crate::index::{Digest, MAX_INDEX};
use crate::path::PathFault;

/// Why a release may not be used. Each reason has a stable [`code`](Refused::code).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Refused {
    /// The container file is cut short, has bytes behind its end, or lengths that cannot be.
    #[error("the package is damaged: {reason}; pack or copy it again")]
    Package { reason: String },
    /// The index is larger than any release needs.
    #[error("the release's index has {size} bytes, allowed are {MAX_INDEX}; split the release")]
    IndexTooLarge { size: u64 },
    /// The index is not what `pack` writes.
    #[error("the release's index cannot be read: {reason}; pack the release again")]
    IndexUnreadable { reason: String },
    /// The index is of another version of this format.
    #[error(
        "the release's index has format {found}, this program reads format 1; use programs of one version"
    )]
    Format { found: u32 },
    /// More signatures than anyone checks.
    #[error("the release has {count} signatures, allowed are {limit}; sign it with fewer keys")]
    TooManySignatures { count: usize, limit: usize },
    /// Signatures are required.
    #[error(
        "the release {name} is not signed; sign it with a trusted key, or state `unsigned = \"allow\"` for the fleet"
    )]
    SignatureMissing { name: String },
    /// Signed, but by nobody trusted.
    #[error(
        "the release {name} is signed by {keys}, which is not trusted; add that key to the trusted ones, or sign with one of them"
    )]
    SignatureUnknown { name: String, keys: String },
    /// Claims to be signed by a trusted key and is not.
    #[error(
        "the signature of {key} on the release is wrong: the release was changed after signing; fetch or pack it again"
    )]
    SignatureBad { key: String },
    /// For another kind of machine.
    #[error("the release {name} is for {found}, this labor is {wanted}; pack it for that target")]
    Target { name: String, found: String, wanted: String },
    /// For another plugin ABI.
    #[error(
        "the plugin {name} has ABI {found}, this labor speaks {wanted}; build it with the SDK of that version"
    )]
    Abi { name: String, found: u32, wanted: u32 },
    /// The archive, or what it declares, is over the limit.
    #[error(
        "the release {name} has {size} bytes unpacked, allowed are {limit}; raise the limit or make it smaller"
    )]
    TooLarge { name: String, size: u64, limit: u64 },
    /// More entries than allowed.
    #[error("the archive has more than {limit} files; raise the limit or pack fewer")]
    TooManyFiles { limit: u64 },
    /// A chunk is not as long as the index says.
    #[error("chunk {chunk} has {found}, the index says {declared} bytes; fetch it again")]
    ChunkSize { chunk: usize, declared: u32, found: String },
    /// A chunk cannot be decompressed.
    #[error("chunk {chunk} cannot be decompressed: {reason}; fetch it again")]
    ChunkUnreadable { chunk: usize, reason: String },
    /// A chunk is not what the index says.
    #[error("chunk {chunk} has the digest {found}, the index says {declared}; fetch it again")]
    ChunkDigest { chunk: usize, declared: Digest, found: Digest },
    /// The archive as a whole is not what the index says.
    #[error("the archive has the digest {found}, the index says {declared}; pack the release again")]
    Digest { declared: Digest, found: Digest },
    /// Not an archive that `pack` writes.
    #[error("the archive cannot be read: {reason}; pack the release again")]
    ArchiveUnreadable { reason: String },
    /// Bytes behind the archive's end.
    #[error("the archive goes on behind its end; pack the release again")]
    TrailingData,
    /// A name that may not be.
    #[error("the archive's path {path:?} {fault}")]
    Path { path: String, fault: PathFault },
    /// A symbolic link that leads out of the archive.
    #[error("the link {path} in the archive points to {target:?}, which {fault}")]
    Link { path: String, target: String, fault: PathFault },
    /// A hard link.
    #[error("{path} in the archive is a hard link; pack the file itself")]
    HardLink { path: String },
    /// A device, a fifo, a sparse file, an extension.
    #[error("{path} in the archive is {kind}; allowed are files, directories and relative symbolic links")]
    Special { path: String, kind: String },
    /// A file below something that is no directory.
    #[error("{path} in the archive lies below {parent}, which is a link or a file; pack directories as such")]
    ThroughLink { path: String, parent: String },
    /// A file in a directory that the archive lacks.
    #[error("{path} in the archive lies in a directory that the archive lacks; pack the release again")]
    NoDirectory { path: String },
    /// The same path twice.
    #[error("{path} is in the archive twice; pack the release again")]
    Duplicate { path: String },
    /// No `release.toml`.
    #[error("the archive has no release.toml; pack the release again")]
    ManifestMissing,
    /// A `release.toml` that says something else than the index.
    #[error("the archive's release.toml is not the manifest of the index: {reason}; pack the release again")]
    ManifestDiffers { reason: String },
    /// The manifest's entry is not in the archive.
    #[error("the release's entry {entry} is not in the archive; correct `entry` in release.toml")]
    EntryMissing { entry: String },
    /// The manifest's entry is a directory or a link.
    #[error("the release's entry {entry} is no regular file; correct `entry` in release.toml")]
    EntryNotFile { entry: String },
}

impl Refused {
    /// A stable code, such as `release.signature_missing`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Package { .. } => "release.package_damaged",
            Self::IndexTooLarge { .. } => "release.index_too_large",
            Self::IndexUnreadable { .. } => "release.index_unreadable",
            Self::Format { .. } => "release.format",
            Self::TooManySignatures { .. } => "release.too_many_signatures",
            Self::SignatureMissing { .. } => "release.signature_missing",
            Self::SignatureUnknown { .. } => "release.signature_unknown",
            Self::SignatureBad { .. } => "release.signature_bad",
            Self::Target { .. } => "release.target",
            Self::Abi { .. } => "release.abi",
            Self::TooLarge { .. } => "release.too_large",
            Self::TooManyFiles { .. } => "release.too_many_files",
            Self::ChunkSize { .. } => "release.chunk_size",
            Self::ChunkUnreadable { .. } => "release.chunk_unreadable",
            Self::ChunkDigest { .. } => "release.chunk_digest",
            Self::Digest { .. } => "release.digest",
            Self::ArchiveUnreadable { .. } => "release.archive_unreadable",
            Self::TrailingData => "release.trailing_data",
            Self::Path { fault: PathFault::Absolute, .. } => "release.path_absolute",
            Self::Path { fault: PathFault::Parent, .. } => "release.path_parent",
            Self::Path { fault: PathFault::TooLong | PathFault::NameTooLong, .. } => "release.path_too_long",
            Self::Path { .. } => "release.path_name",
            Self::Link { .. } => "release.link_outside",
            Self::HardLink { .. } => "release.hard_link",
            Self::Special { .. } => "release.special_file",
            Self::ThroughLink { .. } => "release.through_link",
            Self::NoDirectory { .. } => "release.no_directory",
            Self::Duplicate { .. } => "release.duplicate",
            Self::ManifestMissing => "release.manifest_missing",
            Self::ManifestDiffers { .. } => "release.manifest_differs",
            Self::EntryMissing { .. } => "release.entry_missing",
            Self::EntryNotFile { .. } => "release.entry_not_file",
        }
    }
}
