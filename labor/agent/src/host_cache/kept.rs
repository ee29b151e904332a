//! The file of one release:
//!
//! ```text
//! magic 8 | signed bytes u32 | chunks u32
//! what was signed: the index and its signatures, as the Overseer sends them
//! for each chunk: digest 32 | raw size u32 | stored bytes u32, 0 while it is not there
//! from the next multiple of 4096 on, each chunk where it would be in the raw archive
//! ```
//!
//! Integers are little-endian. A chunk is stored as a zstd frame where that is shorter than its raw
//! size, and leaves a hole behind it. Every chunk has a place of its own, so any number of agents write
//! at once, and what they write to the same place is the same.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_protocol::proto;
use overseer_release::{Digest, IndexChunk, MAX_CHUNK, MAX_INDEX, StoredChunk};
use prost::Message;
use rustix::fs::{FlockOperation, flock};

/// One that was used more lately than this counts as used now.
const FRESH: Duration = Duration::from_secs(60);
const MAGIC: [u8; 8] = *b"OVRKEPT1";
const HEADER: usize = 16;
const ROW: usize = 40;
/// Where the stored bytes are in a row.
const STORED: u64 = 36;
/// Largest index with its signatures, in bytes.
const MOST_SIGNED: usize = MAX_INDEX + (64 << 10);
/// A chunk takes at least this many bytes of an index.
const CHUNK_IN_INDEX: usize = 80;
const PAGE: u64 = 4096;

/// While this lives, on any thread, a release is not evicted. The kernel ends it with the process.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    _locked: Arc<File>,
}

/// What is kept of a release, in use. Other agents may write to it at any time.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Arc<File>,
    reply: proto::ReleaseIndexReply,
    table: u64,
    places: Vec<Place>,
}

/// A chunk, and where it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    digest: Digest,
    size: u32,
    offset: u64,
}

impl Kept {
    /// Makes the file of a release of which no chunk is there yet.
    pub(super) fn make(
        path: &Path,
        reply: &proto::ReleaseIndexReply,
        chunks: &[IndexChunk],
    ) -> io::Result<()> {
        let signed = reply.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER + signed.len() + chunks.len() * ROW);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(signed.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&signed);
        for chunk in chunks {
            bytes.extend_from_slice(&chunk.digest.0);
            bytes.extend_from_slice(&chunk.size.to_le_bytes());
            bytes.extend_from_slice(&0u32.to_le_bytes());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all_at(&bytes, 0)
    }

    /// Takes a file into use.
    ///
    /// # Errors
    /// It is none of a release, or is being evicted.
    pub(super) fn lock(file: File) -> io::Result<Self> {
        // Who evicts holds the lock alone while it removes the file: then it is as good as gone.
        flock(&file, FlockOperation::NonBlockingLockShared)?;
        let meta = file.metadata()?;
        if meta.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is no kept release");
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let (signed, count) = (number(&header[8..]) as usize, number(&header[12..]) as usize);
        if header[..8] != MAGIC || signed > MOST_SIGNED || count > MAX_INDEX / CHUNK_IN_INDEX {
            return Err(damaged());
        }
        let table = HEADER + signed;
        if meta.len() < (table + count * ROW) as u64 {
            return Err(damaged());
        }
        let mut bytes = vec![0; signed + count * ROW];
        file.read_exact_at(&mut bytes, HEADER as u64)?;
        let reply = proto::ReleaseIndexReply::decode(&bytes[..signed]).map_err(|_| damaged())?;
        let mut offset = ((table + count * ROW) as u64).next_multiple_of(PAGE);
        let mut places = Vec::with_capacity(count);
        for row in bytes[signed..].chunks_exact(ROW) {
            let digest = row[..32].try_into().map(Digest).map_err(|_| damaged())?;
            let size = number(&row[32..]);
            if size as usize > MAX_CHUNK {
                return Err(damaged());
            }
            places.push(Place { digest, size, offset });
            offset += u64::from(size);
        }
        Ok(Self { file: Arc::new(file), reply, table: table as u64, places })
    }

    pub(crate) fn in_use(&self) -> InUse {
        InUse { _locked: self.file.clone() }
    }

    /// Notes that it was used, by the time of the file's last change; not more often than can matter.
    pub(crate) fn used(&self) {
        let now = SystemTime::now();
        let last = self.file.metadata().and_then(|meta| meta.modified());
        if last.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age < FRESH)) {
            return;
        }
        // Where it cannot be noted it goes early.
        let _ = self.file.set_modified(now);
    }

    /// What was signed.
    pub(crate) fn reply(&self) -> &proto::ReleaseIndexReply {
        &self.reply
    }

    /// Positions of the chunks that are there, as far as the file says.
    pub(crate) fn present(&self) -> io::Result<HashMap<Digest, usize>> {
        let mut rows = vec![0; self.places.len() * ROW];
        self.file.read_exact_at(&mut rows, self.table)?;
        let rows = rows.chunks_exact(ROW).zip(&self.places).enumerate();
        let there = rows.filter(|(_, (row, _))| number(&row[STORED as usize..]) > 0);
        Ok(there.map(|(position, (_, place))| (place.digest, position)).collect())
    }

    /// Reads the chunk at a position, unverified.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn read(&self, position: usize) -> io::Result<StoredChunk> {
        let place = self.place(position)?;
        let stored = self.stored(position)?;
        if stored == 0 || stored > place.size {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut data = vec![0; stored as usize];
        self.file.read_exact_at(&mut data, place.offset)?;
        Ok(StoredChunk { zstd: stored < place.size, data })
    }

    /// Writes the chunk of a position, which nobody finds there yet; false where one is there, or where
    /// it cannot be that of the position.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, position: usize, chunk: &StoredChunk) -> io::Result<bool> {
        let place = self.place(position)?;
        let length = chunk.data.len();
        if length == 0 || length > place.size as usize || self.stored(position)? > 0 {
            return Ok(false);
        }
        self.file.write_all_at(&chunk.data, place.offset)?;
        Ok(true)
    }

    /// What was written to a position, so many bytes, is verified: from now on others find it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep(&self, position: usize, stored: u32) -> io::Result<()> {
        self.place(position)?;
        self.file.write_all_at(&stored.to_le_bytes(), self.row(position) + STORED)
    }

    /// The chunk of a position is not what it should be: nobody is to find it any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn forget(&self, position: usize) -> io::Result<()> {
        self.keep(position, 0)
    }

    fn stored(&self, position: usize) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, self.row(position) + STORED)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn row(&self, position: usize) -> u64 {
        self.table + (position * ROW) as u64
    }

    fn place(&self, position: usize) -> io::Result<Place> {
        self.places.get(position).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
