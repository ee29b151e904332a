mod copy;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overseer_protocol::ReleaseId;

use self::copy::Stamp;
use crate::chunk::StoredChunk;
use crate::index::{Digest, Index, MAX_INDEX};
use crate::key::Signature;
use crate::refused::Refused;
use crate::trust::{MAX_SIGNATURES, Trust, Verified, verify};
use crate::unpack::{UnpackError, unpack};

/// The first bytes of a package.
pub(crate) const MAGIC: [u8; 8] = *b"OVRLSv1\n";
/// Set in a chunk's entry of the table if it is stored as a zstd frame.
pub(crate) const ZSTD_FLAG: u32 = 1 << 31;
pub(crate) const HEADER: usize = 32;
const SIGNATURE: usize = 32 + 64;
/// A chunk takes at least this many bytes of an index.
const CHUNK_IN_INDEX: usize = 80;

/// The lengths at the start of a package, which settle where everything is:
///
/// ```text
/// magic 8 | chunk bytes u64 | chunks u32 | index bytes u32 | signatures u32 | zero u32
/// the chunks, one behind the other
/// for each chunk: stored bytes u32, with the top bit set if they are a zstd frame
/// the index
/// the signatures: key 32, signature 64 each
/// ```
///
/// Integers are little-endian. The index comes last because it is known last: a release is
/// packed in one pass, however large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) chunk_bytes: u64,
    pub(crate) chunks: u32,
    pub(crate) index_bytes: u32,
    pub(crate) signatures: u32,
}

impl Layout {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.chunk_bytes.to_le_bytes());
        header[16..20].copy_from_slice(&self.chunks.to_le_bytes());
        header[20..24].copy_from_slice(&self.index_bytes.to_le_bytes());
        header[24..28].copy_from_slice(&self.signatures.to_le_bytes());
        header
    }

    fn parse(header: &[u8; HEADER]) -> Result<Self, Refused> {
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC {
            return Err(damaged("it does not begin as a release does"));
        }
        if number(28) != 0 {
            return Err(damaged("its header has a number that must be zero"));
        }
        let layout = Self {
            chunk_bytes: u64::from(number(8)) | u64::from(number(12)) << 32,
            chunks: number(16),
            index_bytes: number(20),
            signatures: number(24),
        };
        if layout.index_bytes as usize > MAX_INDEX {
            return Err(Refused::IndexTooLarge { size: layout.index_bytes.into() });
        }
        if layout.signatures as usize > MAX_SIGNATURES {
            return Err(Refused::TooManySignatures {
                count: layout.signatures as usize,
                limit: MAX_SIGNATURES,
            });
        }
        if layout.chunks as usize > MAX_INDEX / CHUNK_IN_INDEX {
            return Err(damaged("it has more chunks than an index can name"));
        }
        Ok(layout)
    }

    fn table(&self) -> usize {
        self.chunks as usize * 4
    }

    fn behind_chunks(&self) -> usize {
        self.table() + self.index_bytes as usize + self.signatures as usize * SIGNATURE
    }
}

fn damaged(reason: impl Into<String>) -> Refused {
    Refused::Package { reason: reason.into() }
}

/// Why a package cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is not a sound package.
    #[error("{}: {refused}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        refused: Refused,
    },
    /// Somebody has written to it since it was opened.
    #[error("{} has been changed since it was opened; open it again, and replace releases by `mv`, not in place", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("the package {}: {source}; check the path", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PackageError {
    /// A stable code, such as `release.package_damaged`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { refused, .. } => refused.code(),
            Self::Changed { .. } => "release.changed",
            Self::Io { .. } => "release.package_io",
        }
    }
}

/// A packed release on disk. Holds the index and where each chunk is, not the chunks.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    file: File,
    /// Of the file before anything of it was read.
    stamp: Stamp,
    id: ReleaseId,
    index_bytes: Vec<u8>,
    index: Index,
    signatures: Vec<Signature>,
    stored: Vec<Stored>,
    positions: HashMap<Digest, usize>,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    offset: u64,
    length: u32,
    zstd: bool,
}

impl Package {
    /// Opens a package and checks that every length in it fits every other. Trusts nobody yet:
    /// see [`Package::verify`].
    ///
    /// # Errors
    /// No such file, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        let file = File::open(path).map_err(|source| PackageError::Io { path: path.to_owned(), source })?;
        Self::read(file, path)
    }

    fn read(file: File, path: &Path) -> Result<Self, PackageError> {
        let refused = |refused| PackageError::Refused { path: path.to_owned(), refused };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => refused(damaged("it is cut short")),
            _ => PackageError::Io { path: path.to_owned(), source },
        };
        let stamp = Stamp::of(&file).map_err(io)?;
        let length = stamp.length;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(io)?;
        let layout = Layout::parse(&header).map_err(refused)?;
        let behind = layout.behind_chunks();
        let end = layout.chunk_bytes.checked_add((HEADER + behind) as u64);
        match end.map(|end| end.cmp(&length)) {
            Some(std::cmp::Ordering::Equal) => {}
            Some(std::cmp::Ordering::Less) => {
                return Err(refused(damaged("it goes on behind its end")));
            }
            _ => return Err(refused(damaged("it is cut short"))),
        }
        // Not more than the file has, as was just checked.
        let mut tail = vec![0; behind];
        file.read_exact_at(&mut tail, HEADER as u64 + layout.chunk_bytes).map_err(io)?;
        let (table, rest) = tail.split_at(layout.table());
        let (index_bytes, signature_bytes) = rest.split_at(layout.index_bytes as usize);
        let index = Index::parse(index_bytes).map_err(refused)?;
        let stored = read_table(table, &index, layout.chunk_bytes).map_err(refused)?;
        let signatures = signature_bytes
            .chunks_exact(SIGNATURE)
            .filter_map(|bytes| Signature::from_slices(&bytes[..32], &bytes[32..]))
            .collect();
        let positions = index.chunks.iter().enumerate().map(|(at, chunk)| (chunk.digest, at)).collect();
        Ok(Self {
            path: path.to_owned(),
            file,
            stamp,
            id: ReleaseId::of_index(index_bytes),
            index_bytes: index_bytes.to_vec(),
            index,
            signatures,
            stored,
            positions,
        })
    }

    /// The release's id.
    pub fn id(&self) -> ReleaseId {
        self.id
    }

    /// The index, byte for byte as it is signed.
    pub fn index_bytes(&self) -> &[u8] {
        &self.index_bytes
    }

    /// What the index says, unverified.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The signatures, unverified.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The position of a chunk with this digest.
    pub fn position(&self, digest: &Digest) -> Option<usize> {
        self.positions.get(digest).copied()
    }

    /// Reads one chunk as it is stored, unverified: at most [`MAX_CHUNK`](crate::MAX_CHUNK) bytes.
    ///
    /// # Errors
    /// There is no such chunk, or the file cannot be read.
    pub fn read_chunk(&self, position: usize) -> Result<StoredChunk, PackageError> {
        let io = self.io();
        let stored = self.stored.get(position).ok_or_else(|| {
            let count = self.stored.len();
            io(io::Error::new(io::ErrorKind::NotFound, format!("no chunk {position}, it has {count}")))
        })?;
        let mut data = vec![0; stored.length as usize];
        self.file.read_exact_at(&mut data, stored.offset).map_err(io)?;
        Ok(StoredChunk { zstd: stored.zstd, data })
    }

    fn io(&self) -> impl Fn(io::Error) -> PackageError {
        |source| PackageError::Io { path: self.path.clone(), source }
    }

    /// [`verify`] of this package's index and signatures.
    ///
    /// # Errors
    /// The first reason why this release may not run here.
    pub fn verify(&self, trust: &Trust) -> Result<Verified, Refused> {
        verify(&self.index_bytes, &self.signatures, trust)
    }

    /// Verifies and unpacks in one go; see [`unpack`].
    ///
    /// # Errors
    /// [`UnpackError`]; nothing is at `target` then.
    pub fn unpack(&self, trust: &Trust, target: &Path) -> Result<Verified, UnpackError> {
        let verified = self.verify(trust)?;
        unpack(&verified, |chunk| self.read_chunk(chunk).map_err(Into::into), target)?;
        Ok(verified)
    }
}

fn read_table(table: &[u8], index: &Index, chunk_bytes: u64) -> Result<Vec<Stored>, Refused> {
    if table.len() / 4 != index.chunks.len() {
        return Err(damaged("it has not as many chunks as its index names"));
    }
    let mut offset = HEADER as u64;
    let mut stored = Vec::with_capacity(index.chunks.len());
    for (entry, chunk) in table.chunks_exact(4).zip(&index.chunks) {
        let entry = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let (zstd, length) = (entry & ZSTD_FLAG != 0, entry & !ZSTD_FLAG);
        if if zstd { length >= chunk.size } else { length != chunk.size } {
            return Err(damaged(format!("chunk {} has a length that cannot be", stored.len())));
        }
        stored.push(Stored { offset, length, zstd });
        offset += u64::from(length);
    }
    if offset - HEADER as u64 != chunk_bytes {
        return Err(damaged("its chunks do not fill their place"));
    }
    Ok(stored)
}
