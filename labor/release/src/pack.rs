use std::io;
use std::path::{Path, PathBuf};

use overseer_protocol::ReleaseId;

use crate::index::{Index, MAX_INDEX};
use crate::key::{PublicKey, SigningKey};
use crate::manifest::{FieldError, Kind, MANIFEST_FILE, Manifest};
use crate::manifest_file::ManifestError;
use crate::package_writer::PackageWriter;
use crate::path::{ArchivePath, PathFault};
use crate::tree::{Node, Tree};

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The directory's `release.toml` is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A value given in the program is wrong.
    #[error("the release's {0}; give another value")]
    Field(#[from] FieldError),
    /// A path that no archive may have.
    #[error("{} {fault}", path.display())]
    Path {
        /// On disk, or as given.
        path: PathBuf,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A link that may not be packed.
    #[error("the link {} points to {}, which {fault}", path.display(), target.display())]
    Link {
        /// The link on disk.
        path: PathBuf,
        /// Where it points to.
        target: PathBuf,
        /// What is wrong with that.
        fault: PathFault,
    },
    /// A device, a fifo, a socket.
    #[error("{} is no regular file, directory or link; a release cannot hold it", .0.display())]
    Special(PathBuf),
    /// One path given twice, or a file where a directory has to be.
    #[error("the path {0} is given twice, or lies below a file; give each file a path of its own")]
    Duplicate(ArchivePath),
    /// What the manifest's `entry` names is not packed, or is no regular file.
    #[error("the release has no file {entry}; correct `entry`, or build it first")]
    EntryMissing {
        /// As in the manifest.
        entry: String,
    },
    /// A file got longer or shorter while it was packed.
    #[error("{} changed while it was packed; pack again when it is complete", .0.display())]
    Changed(PathBuf),
    /// Writing there would replace a device, a pipe or a directory.
    #[error("{} is no regular file and is not replaced; give the path of a file", .0.display())]
    NotAFile(PathBuf),
    /// The package would be packed into the next one.
    #[error("{} lies in the directory that is packed; write the package somewhere else", .0.display())]
    Inside(PathBuf),
    /// More chunks than an index holds.
    #[error("the release has {size} bytes, too many for one index; split it")]
    TooLarge {
        /// Raw bytes.
        size: u64,
    },
    /// Reading a source failed.
    #[error("{}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing the package failed.
    #[error("the package cannot be written: {0}; check space and permissions there")]
    Write(io::Error),
}

impl PackError {
    /// A stable code, such as `release.pack_entry_missing`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(error) => error.code(),
            Self::Field(_) => "release.manifest",
            Self::Path { .. } => "release.pack_path",
            Self::Link { .. } => "release.pack_link",
            Self::Special(_) => "release.pack_special_file",
            Self::Duplicate(_) => "release.pack_duplicate",
            Self::EntryMissing { .. } => "release.pack_entry_missing",
            Self::Changed(_) => "release.pack_changed",
            Self::NotAFile(_) => "release.pack_not_a_file",
            Self::Inside(_) => "release.pack_inside",
            Self::TooLarge { .. } => "release.pack_too_large",
            Self::Io { .. } => "release.pack_io",
            Self::Write(_) => "release.pack_write",
        }
    }

    pub(crate) fn write(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// What was packed.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The release's id.
    pub id: ReleaseId,
    /// Its index.
    pub index: Index,
    /// The package.
    pub path: PathBuf,
    /// Bytes of the package.
    pub size: u64,
    /// The key that it is signed with.
    pub signed_by: Option<PublicKey>,
}

/// Packs a directory as a release, in one pass whatever its size.
///
/// The manifest is the directory's `release.toml`, or `manifest` in place of it. `out` is the
/// package's path, or a directory, where it gets the name
/// [`NAME-VERSION.release`](Manifest::file_name). A package that is there already is replaced in
/// one step. Equal files, manifest and key give equal bytes.
///
/// # Errors
/// [`PackError`]; nothing is written then.
pub fn pack(
    dir: &Path,
    manifest: Option<&Manifest>,
    key: Option<&SigningKey>,
    out: &Path,
) -> Result<Packed, PackError> {
    let manifest = match manifest {
        Some(manifest) => manifest.clone(),
        None => Manifest::read(&dir.join(MANIFEST_FILE))?,
    };
    refuse_inside(dir, out)?;
    write_package(&manifest, Tree::of_directory(dir)?, key, out)
}

pub(crate) fn write_package(
    manifest: &Manifest,
    mut tree: Tree,
    key: Option<&SigningKey>,
    out: &Path,
) -> Result<Packed, PackError> {
    let text = manifest.to_toml()?;
    tree.replace(to_path(MANIFEST_FILE)?, text.into_bytes());
    let entry = || PackError::EntryMissing { entry: manifest.entry.clone() };
    match tree.get_mut(&to_path(&manifest.entry)?) {
        Some(Node::File { executable, .. }) => {
            // A program that lost its bit on the way here would fail on every node.
            *executable |= matches!(manifest.kind, Kind::Program { .. });
        }
        _ => return Err(entry()),
    }
    let path = target_of(if out.is_dir() { out.join(manifest.file_name()) } else { out.to_owned() })?;
    let mut writer = PackageWriter::new(parent_of(&path)).map_err(PackError::write)?;
    tree.write_tar(&mut writer)?;
    let index = writer.end(manifest).map_err(PackError::write)?;
    let bytes = index.to_bytes();
    if bytes.len() > MAX_INDEX {
        return Err(PackError::TooLarge { size: index.size });
    }
    let signatures: Vec<_> = key.iter().map(|key| key.sign(&bytes)).collect();
    let size = writer.finish(&bytes, &signatures, &path).map_err(PackError::write)?;
    let id = ReleaseId::of_index(&bytes);
    Ok(Packed { id, index, path, size, signed_by: key.map(SigningKey::public) })
}

fn refuse_inside(dir: &Path, out: &Path) -> Result<(), PackError> {
    let real =
        |path: &Path| path.canonicalize().map_err(|source| PackError::Io { path: path.to_owned(), source });
    let place = real(if out.is_dir() { out } else { parent_of(out) })?;
    if place.starts_with(real(dir)?) {
        return Err(PackError::Inside(out.to_owned()));
    }
    Ok(())
}

/// The file to write: a link is followed to the file that it names.
fn target_of(path: PathBuf) -> Result<PathBuf, PackError> {
    let failed = |source| PackError::Io { path: path.clone(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(source) => Err(failed(source)),
        Ok(there) if there.is_symlink() => {
            let target = path.canonicalize().map_err(failed)?;
            if target.is_file() { Ok(target) } else { Err(PackError::NotAFile(path)) }
        }
        Ok(there) if there.is_file() => Ok(path),
        Ok(_) => Err(PackError::NotAFile(path)),
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn to_path(text: &str) -> Result<ArchivePath, PackError> {
    ArchivePath::new(text).map_err(|fault| PackError::Path { path: text.into(), fault })
}
