use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, EntryType, Header};

use crate::chunk::ChunkDecoder;
use crate::index::{Digest, Index};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::manifest_file::MAX_MANIFEST;
use crate::path::{ArchivePath, MAX_PATH};
use crate::refused::Refused;
use crate::trust::Verified;
use crate::unpack::{ChunkSource, UnpackError};

/// What an entry of an archive is.
pub(crate) enum Content<'a> {
    Directory,
    /// A relative link that stays in the archive.
    Link(&'a str),
    File {
        executable: bool,
        size: u64,
        /// Fewer than `size` bytes come only with an error.
        data: &'a mut dyn Read,
    },
}

/// Reads an archive out of chunks, each checked before a byte of it is looked at, and shows every
/// entry to `visit` after it was checked. What was visited is good only if this returns `Ok`.
pub(crate) fn read_archive(
    verified: &Verified,
    source: impl ChunkSource,
    mut visit: impl FnMut(&ArchivePath, Content<'_>) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let bytes = RawBytes::new(verified, source)?;
    let mut archive = Archive::new(bytes);
    let mut seen = Seen::default();
    let mut long = LongNames::default();
    // Raw: this program's archives have two extensions only, and the crate would read an
    // extension of any size into memory.
    for entry in archive.entries().map_err(from_io)?.raw(true) {
        let mut entry = entry.map_err(from_io)?;
        if entry.header().as_gnu().is_none() {
            return Err(unreadable("it has a header of another kind than GNU tar").into());
        }
        if long.take_in(&mut entry)? {
            continue;
        }
        let header = entry.header().clone();
        let path_bytes = long.path.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let link_bytes = long.link.take();
        let path = ArchivePath::from_bytes(&path_bytes).map_err(|fault| {
            let path = String::from_utf8_lossy(&path_bytes).chars().take(200).collect();
            Refused::Path { path, fault }
        })?;
        let kind = header.entry_type();
        seen.admit(&path, kind, verified.max_files)?;
        let size = entry.size();
        if !kind.is_file() && size != 0 {
            return Err(unreadable(format!("{path} has content but is no file")).into());
        }
        match kind {
            EntryType::Directory => visit(&path, Content::Directory)?,
            EntryType::Symlink => {
                let target = link_bytes.or_else(|| Some(header.link_name_bytes()?.into_owned()));
                let target = link_target(&path, target.as_deref().unwrap_or_default())?;
                visit(&path, Content::Link(&target))?;
            }
            EntryType::Regular => {
                let mode = header.mode().map_err(|error| unreadable(error.to_string()))?;
                let executable = mode & 0o100 != 0;
                let mut manifest;
                let mut data: &mut dyn Read = &mut Whole { inner: &mut entry, left: size };
                if path.as_str() == MANIFEST_FILE {
                    let text = check_manifest(verified, size, data)?;
                    manifest = io::Cursor::new(text);
                    data = &mut manifest;
                }
                visit(&path, Content::File { executable, size, data })?;
            }
            other => return Err(special(&path, other).into()),
        }
    }
    long.check_none_left()?;
    archive.into_inner().check_end()?;
    seen.check_complete(verified)?;
    Ok(())
}

pub(crate) fn from_io(error: io::Error) -> UnpackError {
    match error.downcast::<UnpackError>() {
        Ok(ours) => ours,
        Err(other) => unreadable(other.to_string()).into(),
    }
}

fn unreadable(reason: impl Into<String>) -> Refused {
    Refused::ArchiveUnreadable { reason: reason.into() }
}

fn special(path: &ArchivePath, kind: EntryType) -> Refused {
    let path = path.to_string();
    let kind = match kind {
        EntryType::Link => return Refused::HardLink { path },
        EntryType::Char => "a character device",
        EntryType::Block => "a block device",
        EntryType::Fifo => "a fifo",
        EntryType::GNUSparse => "a sparse file",
        EntryType::XHeader | EntryType::XGlobalHeader => "a pax extension",
        _ => "of an unknown type",
    };
    Refused::Special { path, kind: kind.to_owned() }
}

fn link_target(path: &ArchivePath, target: &[u8]) -> Result<String, Refused> {
    let text = String::from_utf8_lossy(target).into_owned();
    let fault = match std::str::from_utf8(target) {
        Ok(target) => path.check_link(target).err(),
        Err(_) => Some(crate::path::PathFault::NotUtf8),
    };
    match fault {
        None => Ok(text),
        Some(fault) => {
            let target = text.chars().take(200).collect();
            Err(Refused::Link { path: path.to_string(), target, fault })
        }
    }
}

/// The manifest in the archive, which must say what the index says.
fn check_manifest(index: &Index, size: u64, data: &mut dyn Read) -> Result<Vec<u8>, UnpackError> {
    let differs = |reason: String| Refused::ManifestDiffers { reason };
    if size > MAX_MANIFEST as u64 {
        return Err(differs(format!("it has more than {MAX_MANIFEST} bytes")).into());
    }
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).map_err(from_io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| differs("it is not UTF-8".into()))?;
    let manifest =
        Manifest::from_toml(Path::new(MANIFEST_FILE), text).map_err(|error| differs(error.to_string()))?;
    if manifest != index.manifest {
        return Err(differs("its values differ".into()).into());
    }
    Ok(bytes)
}

/// What the archive had so far.
#[derive(Default)]
struct Seen {
    kinds: BTreeMap<ArchivePath, EntryType>,
}

impl Seen {
    fn admit(&mut self, path: &ArchivePath, kind: EntryType, max_files: u64) -> Result<(), Refused> {
        if self.kinds.len() as u64 >= max_files {
            return Err(Refused::TooManyFiles { limit: max_files });
        }
        self.check_above(path)?;
        if self.kinds.insert(path.clone(), kind).is_some() {
            return Err(Refused::Duplicate { path: path.to_string() });
        }
        Ok(())
    }

    /// Directories come before what is in them, so a path below anything else is a trick.
    fn check_above(&self, path: &ArchivePath) -> Result<(), Refused> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let mut above = Some(parent.clone());
        while let Some(directory) = above {
            match self.kinds.get(&directory) {
                Some(EntryType::Directory) if directory == parent => return Ok(()),
                Some(EntryType::Directory) => break,
                Some(_) => {
                    let parent = directory.to_string();
                    return Err(Refused::ThroughLink { path: path.to_string(), parent });
                }
                None => above = directory.parent(),
            }
        }
        Err(Refused::NoDirectory { path: path.to_string() })
    }

    fn check_complete(&self, index: &Index) -> Result<(), Refused> {
        let kind = |path: &str| self.kinds.get(&ArchivePath::new(path).ok()?).copied();
        match kind(MANIFEST_FILE) {
            Some(EntryType::Regular) => {}
            _ => return Err(Refused::ManifestMissing),
        }
        let entry = index.manifest.entry.clone();
        match kind(&entry) {
            Some(EntryType::Regular) => Ok(()),
            Some(_) => Err(Refused::EntryNotFile { entry }),
            None => Err(Refused::EntryMissing { entry }),
        }
    }
}

/// Names too long for a header, which come in an entry of their own before the one they are of.
#[derive(Default)]
struct LongNames {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl LongNames {
    fn take_in<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, UnpackError> {
        let slot = match entry.header().entry_type() {
            EntryType::GNULongName => &mut self.path,
            EntryType::GNULongLink => &mut self.link,
            _ => return Ok(false),
        };
        if slot.is_some() {
            return Err(unreadable("one entry has two long names").into());
        }
        // With the NUL at its end, and one more so that a longer path is named as such.
        let size = entry.size();
        let mut name = Vec::new();
        entry.take(MAX_PATH as u64 + 2).read_to_end(&mut name).map_err(from_io)?;
        if (name.len() as u64) < size.min(MAX_PATH as u64 + 2) {
            return Err(unreadable("a long name is cut short").into());
        }
        if name.last() == Some(&0) {
            name.pop();
        }
        *slot = Some(name);
        Ok(true)
    }

    fn check_none_left(&self) -> Result<(), Refused> {
        match (&self.path, &self.link) {
            (None, None) => Ok(()),
            _ => Err(unreadable("a long name belongs to no entry")),
        }
    }
}

/// A reader that fails when its source ends early.
struct Whole<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.left = self.left.saturating_sub(count as u64);
        if count == 0 && self.left > 0 && !into.is_empty() {
            return Err(io::Error::other(UnpackError::from(unreadable("a file is cut short"))));
        }
        Ok(count)
    }
}

/// The raw archive, chunk by chunk.
struct RawBytes<'a, S> {
    index: &'a Index,
    source: S,
    decoder: ChunkDecoder,
    next: usize,
    at: usize,
    whole: blake3::Hasher,
}

impl<'a, S: ChunkSource> RawBytes<'a, S> {
    fn new(index: &'a Index, source: S) -> Result<Self, UnpackError> {
        let decoder = ChunkDecoder::new().map_err(from_io)?;
        Ok(Self { index, source, decoder, next: 0, at: 0, whole: blake3::Hasher::new() })
    }

    fn next_chunk(&mut self) -> Result<bool, UnpackError> {
        let Some(declared) = self.index.chunks.get(self.next) else { return Ok(false) };
        let position = self.next;
        let missing = |source| UnpackError::Source { chunk: position, source };
        let mut chunk = self.source.chunk(position).map_err(missing)?;
        while let Err(refused) = self.decoder.decode(position, declared, chunk) {
            match self.source.instead(position, &refused) {
                Some(other) => chunk = other.map_err(missing)?,
                None => return Err(refused.into()),
            }
        }
        self.source.verified(position);
        self.whole.update(self.decoder.raw());
        self.next += 1;
        self.at = 0;
        Ok(true)
    }

    /// Behind the first zero block, which the tar reader took, comes one more and nothing else.
    fn check_end(mut self) -> Result<(), UnpackError> {
        let mut rest = Vec::new();
        (&mut self)
            .take(Header::new_old().as_bytes().len() as u64 + 1)
            .read_to_end(&mut rest)
            .map_err(from_io)?;
        if rest.len() < 512 {
            return Err(unreadable("it has no end").into());
        }
        if rest.len() > 512 || rest.iter().any(|byte| *byte != 0) {
            return Err(Refused::TrailingData.into());
        }
        let found = Digest(*self.whole.finalize().as_bytes());
        if found != self.index.digest {
            return Err(Refused::Digest { declared: self.index.digest, found }.into());
        }
        Ok(())
    }
}

impl<S: ChunkSource> Read for RawBytes<'_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.decoder.raw().len() && !self.next_chunk().map_err(io::Error::other)? {
            return Ok(0);
        }
        let rest = &self.decoder.raw()[self.at..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}
