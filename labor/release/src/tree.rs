use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};
use walkdir::WalkDir;

use crate::pack::PackError;
use crate::path::{ArchivePath, PathFault};

/// What goes into an archive, in the archive's order. Directories of what is added come by
/// themselves.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<ArchivePath, Node>,
}

#[derive(Debug)]
pub(crate) enum Node {
    Directory,
    Link(String),
    Bytes(Vec<u8>),
    File { source: PathBuf, executable: bool },
}

impl Tree {
    /// Everything in a directory.
    pub(crate) fn of_directory(dir: &Path) -> Result<Self, PackError> {
        let mut tree = Self::default();
        for entry in WalkDir::new(dir).min_depth(1).sort_by_file_name() {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(dir).to_owned();
                PackError::Io { path, source: error.into() }
            })?;
            let source = entry.path();
            let inside = source.strip_prefix(dir).unwrap_or(source);
            let path = to_archive_path(inside).map_err(|fault| {
                // Named as it lies on disk, for that is where it has to be mended.
                PackError::Path { path: source.to_owned(), fault }
            })?;
            let kind = entry.file_type();
            let node = if kind.is_dir() {
                Node::Directory
            } else if kind.is_symlink() {
                Node::Link(read_link(source, &path)?)
            } else {
                Self::file(source)?
            };
            tree.nodes.insert(path, node);
        }
        Ok(tree)
    }

    /// A node for a regular file; links are followed.
    pub(crate) fn file(source: &Path) -> Result<Node, PackError> {
        let facts = fs::metadata(source).map_err(|error| io_error(source, error))?;
        if !facts.is_file() {
            return Err(PackError::Special(source.to_owned()));
        }
        Ok(Node::File { source: source.to_owned(), executable: facts.permissions().mode() & 0o100 != 0 })
    }

    /// Adds a node; false if that path is taken.
    pub(crate) fn add(&mut self, path: ArchivePath, node: Node) -> bool {
        let mut above = path.parent();
        while let Some(directory) = above {
            match self.nodes.get(&directory) {
                None => {}
                Some(Node::Directory) => break,
                Some(_) => return false,
            }
            self.nodes.insert(directory.clone(), Node::Directory);
            above = directory.parent();
        }
        if self.nodes.contains_key(&path) {
            return false;
        }
        self.nodes.insert(path, node);
        true
    }

    /// Puts bytes at a path, in place of what is there.
    pub(crate) fn replace(&mut self, path: ArchivePath, bytes: Vec<u8>) {
        self.nodes.insert(path, Node::Bytes(bytes));
    }

    pub(crate) fn get_mut(&mut self, path: &ArchivePath) -> Option<&mut Node> {
        self.nodes.get_mut(path)
    }

    /// Writes the archive: equal trees give equal bytes.
    pub(crate) fn write_tar(&self, out: impl Write) -> Result<(), PackError> {
        let mut tar = tar::Builder::new(out);
        for (path, node) in &self.nodes {
            let written = match node {
                Node::Directory => {
                    tar.append_data(&mut header(EntryType::Directory, 0, true), path.as_str(), io::empty())
                }
                Node::Link(target) => {
                    tar.append_link(&mut header(EntryType::Symlink, 0, true), path.as_str(), target)
                }
                Node::Bytes(bytes) => {
                    let size = bytes.len() as u64;
                    tar.append_data(&mut header(EntryType::Regular, size, false), path.as_str(), &bytes[..])
                }
                Node::File { source, executable } => {
                    write_file(&mut tar, path, source, *executable)?;
                    Ok(())
                }
            };
            written.map_err(PackError::write)?;
        }
        tar.into_inner().map_err(PackError::write)?;
        Ok(())
    }
}

fn write_file(
    tar: &mut tar::Builder<impl Write>,
    path: &ArchivePath,
    source: &Path,
    executable: bool,
) -> Result<(), PackError> {
    let file = File::open(source).map_err(|error| io_error(source, error))?;
    let size = file.metadata().map_err(|error| io_error(source, error))?.len();
    // The header says the size before the content is read, so a file that grows or shrinks
    // meanwhile would spoil everything behind it.
    let mut content = Counted { file: file.take(size), count: 0, failed: None };
    let written =
        tar.append_data(&mut header(EntryType::Regular, size, executable), path.as_str(), &mut content);
    if let Some(error) = content.failed {
        return Err(io_error(source, error));
    }
    written.map_err(PackError::write)?;
    if content.count != size {
        return Err(PackError::Changed(source.to_owned()));
    }
    Ok(())
}

/// Tells a source that cannot be read from a package that cannot be written.
struct Counted {
    file: io::Take<File>,
    count: u64,
    failed: Option<io::Error>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.file.read(into) {
            Ok(count) => {
                self.count += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// No owner, no time: only what counts.
fn header(kind: EntryType, size: u64, executable: bool) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn read_link(source: &Path, path: &ArchivePath) -> Result<String, PackError> {
    let target = fs::read_link(source).map_err(|error| io_error(source, error))?;
    let fault = match target.to_str() {
        None => PathFault::NotUtf8,
        Some(text) => match path.check_link(text) {
            Ok(()) => return Ok(text.to_owned()),
            Err(fault) => fault,
        },
    };
    Err(PackError::Link { path: source.to_owned(), target, fault })
}

fn to_archive_path(path: &Path) -> Result<ArchivePath, PathFault> {
    ArchivePath::from_bytes(path.as_os_str().as_encoded_bytes())
}

fn io_error(path: &Path, source: io::Error) -> PackError {
    PackError::Io { path: path.to_owned(), source }
}
