use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::archive_reader::{Content, from_io, read_archive};
use crate::chunk::StoredChunk;
use crate::path::ArchivePath;
use crate::refused::Refused;
use crate::trust::Verified;

/// How a staging directory's name begins; see [`remove_partials`].
pub const PARTIAL_PREFIX: &str = ".partial-";
const COPY_BUFFER: usize = 256 * 1024;

/// Why a chunk could not be had, in the words of whoever fetches it.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where the chunks of a release come from. A closure that gives the chunk at a position is one.
pub trait ChunkSource {
    /// The chunk at this position of the index. Asked for in the index's order, and may wait.
    ///
    /// # Errors
    /// It cannot be had: nothing is unpacked.
    fn chunk(&mut self, position: usize) -> Result<StoredChunk, SourceError>;

    /// Another chunk for this position, for the one that was given is refused; none where there is
    /// no better one, and the refusal is the end. It may be refused, too, and is asked for again then.
    fn instead(&mut self, _position: usize, _refused: &Refused) -> Option<Result<StoredChunk, SourceError>> {
        None
    }

    /// The last chunk that was given, for this position, is the one that the index declares.
    fn verified(&mut self, _position: usize) {}
}

impl<F: FnMut(usize) -> Result<StoredChunk, SourceError>> ChunkSource for F {
    fn chunk(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        self(position)
    }
}

/// Why nothing was unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The release may not be used.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A chunk could not be fetched.
    #[error("chunk {chunk} of the release could not be fetched: {source}; try again")]
    Source {
        /// Its position in the index.
        chunk: usize,
        /// Why.
        source: SourceError,
    },
    /// Something is there already; it was not touched.
    #[error("{} is there already; use it, or remove it first", .0.display())]
    Exists(PathBuf),
    /// The file system failed.
    #[error("unpacking to {}: {source}; check space and permissions there", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    /// A stable code, such as `release.chunk_digest`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Source { .. } => "release.chunk_missing",
            Self::Exists(_) => "release.target_exists",
            Self::Io { .. } => "release.unpack_io",
        }
    }
}

/// Unpacks a verified release to `target`, which must not be there yet, though its parent must.
///
/// `source` is asked once for each chunk of the index, in its order, and may wait: an async
/// caller runs this on a blocking thread and hands the chunks over through a bounded channel.
///
/// Everything is written to a staging directory beside `target` and moved there in one step
/// after the last check; on an error (or a panic of `source`) the staging directory is removed.
/// Files get mode 0644 or 0755, less the process's umask. Nothing is synced: a release can be
/// unpacked again.
///
/// # Errors
/// [`UnpackError`]; `target` does not exist then, unless it did before.
pub fn unpack(verified: &Verified, source: impl ChunkSource, target: &Path) -> Result<(), UnpackError> {
    if target.symlink_metadata().is_ok() {
        return Err(UnpackError::Exists(target.to_owned()));
    }
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new()
        .prefix(PARTIAL_PREFIX)
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(|source| io_error(parent, source))?;
    let root = staging.path();
    let mut buffer = vec![0; COPY_BUFFER];
    read_archive(verified, source, |path, content| write_entry(root, path, content, &mut buffer))?;
    fs::rename(root, target).map_err(|source| match source.kind() {
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            UnpackError::Exists(target.to_owned())
        }
        _ => io_error(target, source),
    })?;
    let _ = staging.keep();
    Ok(())
}

/// Removes what a killed process left of its unpacking, and counts it. For a start, when no
/// other process unpacks into `dir`.
///
/// # Errors
/// `dir` cannot be read, or something in it cannot be removed.
pub fn remove_partials(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn io_error(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Io { path: path.to_owned(), source }
}

/// The path is checked and everything above it is a directory made here, so no link is followed.
fn write_entry(
    root: &Path,
    path: &ArchivePath,
    content: Content<'_>,
    buffer: &mut [u8],
) -> Result<(), UnpackError> {
    let place = root.join(path.as_str());
    match content {
        Content::Directory => DirBuilder::new().mode(0o755).create(&place),
        Content::Link(target) => std::os::unix::fs::symlink(target, &place),
        Content::File { executable, data, .. } => {
            let mode = if executable { 0o755 } else { 0o644 };
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&place);
            return copy(data, file.map_err(|source| io_error(&place, source))?, &place, buffer);
        }
    }
    .map_err(|source| io_error(&place, source))
}

fn copy(data: &mut dyn Read, mut file: File, place: &Path, buffer: &mut [u8]) -> Result<(), UnpackError> {
    loop {
        match data.read(buffer).map_err(from_io)? {
            0 => return Ok(()),
            count => file.write_all(&buffer[..count]).map_err(|source| io_error(place, source))?,
        }
    }
}
