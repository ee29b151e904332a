//! Where the unpacker has each chunk from: the cache of the host, or the network. What is not in the
//! release's own file there is put into it once the unpacker has verified it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use overseer_protocol::proto;
use overseer_release::{ChunkSource, Digest, Refused, SourceError, StoredChunk, Verified};
use tokio::sync::{mpsc, oneshot};

use super::Counts;
use crate::host_cache::{HostCache, InUse, Kept};

/// Chunks between the network and the disk.
const AHEAD: usize = 4;

/// The unpacker's side; it blocks.
pub(super) struct Source {
    verified: Arc<Verified>,
    cache: Option<Arc<HostCache>>,
    counts: Arc<Counts>,
    /// The release's own file first, where it has one, then those of others.
    files: Vec<Kept>,
    /// What comes is put into the first of them, and something was.
    keeps: bool,
    has_kept: bool,
    from: Vec<From>,
    asks: Option<oneshot::Sender<Vec<usize>>>,
    chunks: mpsc::Receiver<StoredChunk>,
    single: mpsc::Sender<usize>,
    instead: mpsc::Receiver<StoredChunk>,
    given: Given,
}

/// Where a chunk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Network,
    /// The position in one of the files.
    File(usize, usize),
}

/// The chunk that the unpacker looks at.
#[derive(Debug, Clone, Copy)]
struct Given {
    from: From,
    bytes: usize,
    /// Whether it was written to the release's own file.
    written: bool,
}

/// What is to be fetched, and where it goes.
pub(super) struct Wanted {
    /// Positions that the cache has not, in their order.
    pub(super) missing: oneshot::Receiver<Vec<usize>>,
    pub(super) chunks: mpsc::Sender<StoredChunk>,
    /// Positions of which the cache had something else.
    pub(super) single: mpsc::Receiver<usize>,
    pub(super) instead: mpsc::Sender<StoredChunk>,
}

impl Source {
    /// `kept`: the release's own file, where it has one already.
    pub(super) fn new(
        verified: Arc<Verified>,
        cache: Option<Arc<HostCache>>,
        kept: Option<Kept>,
        counts: Arc<Counts>,
    ) -> (Self, Wanted) {
        let (asks, missing) = oneshot::channel();
        let (to_chunks, chunks) = mpsc::channel(AHEAD);
        let (single, for_single) = mpsc::channel(1);
        let (to_instead, instead) = mpsc::channel(1);
        let source = Self {
            verified,
            cache,
            counts,
            keeps: kept.is_some(),
            files: kept.into_iter().collect(),
            has_kept: false,
            from: Vec::new(),
            asks: Some(asks),
            chunks,
            single,
            instead,
            given: Given { from: From::Network, bytes: 0, written: false },
        };
        (source, Wanted { missing, chunks: to_chunks, single: for_single, instead: to_instead })
    }

    /// Looks what the cache has, and asks for the rest. `reply`: what was signed of the release.
    pub(super) fn ask(&mut self, reply: &proto::ReleaseIndexReply) {
        if let Some(cache) = self.cache.clone() {
            self.open(&cache, reply);
        }
        let mut there: HashMap<Digest, From> = HashMap::new();
        for (at, file) in self.files.iter().enumerate() {
            for (digest, position) in file.present().unwrap_or_default() {
                there.entry(digest).or_insert(From::File(at, position));
            }
        }
        for (position, chunk) in self.verified.chunks.iter().enumerate() {
            let from = there.get(&chunk.digest).copied().unwrap_or(From::Network);
            if self.keeps && from == From::Network {
                // What comes twice in a release is fetched once, and then in its file.
                there.insert(chunk.digest, From::File(0, position));
            }
            self.from.push(from);
        }
        for (at, file) in self.files.iter().enumerate() {
            if self.from.iter().any(|from| matches!(from, From::File(used, _) if *used == at)) {
                file.used();
            }
        }
        let missing = self.from.iter().enumerate().filter(|(_, from)| **from == From::Network);
        if let Some(asks) = self.asks.take() {
            // Nobody there: the load was given up, and the first chunk that does not come says so.
            let _ = asks.send(missing.map(|(position, _)| position).collect());
        }
    }

    /// Opens the files that may be of use, and makes the release's own.
    fn open(&mut self, cache: &HostCache, reply: &proto::ReleaseIndexReply) {
        let whole = |file: &Kept| file.present().is_ok_and(|there| self.has_all(&there));
        if self.files.first().is_some_and(whole) {
            return;
        }
        let id = self.verified.id();
        if self.files.is_empty() {
            // The same release, signed by others.
            self.files.extend(cache.find(id));
            let made = cache.make_room(self.verified.size);
            let made = made.and_then(|()| cache.keep(id, reply, &self.verified.chunks));
            let made = made.inspect_err(|error| cache.complain(error)).ok();
            self.keeps = made.is_some();
            self.files.splice(0..0, made);
        } else {
            let room = cache.make_room(self.verified.size);
            self.keeps = room.inspect_err(|error| cache.complain(error)).is_ok();
        }
        self.files.extend(cache.others(id));
    }

    fn has_all(&self, there: &HashMap<Digest, usize>) -> bool {
        self.verified.chunks.iter().all(|chunk| there.contains_key(&chunk.digest))
    }

    /// Whether the cache has more than before.
    pub(super) fn has_kept(&self) -> bool {
        self.has_kept
    }

    /// The release's own file, in use.
    pub(super) fn in_use(&self) -> Option<InUse> {
        self.files.first().filter(|_| self.keeps).map(Kept::in_use)
    }

    /// A chunk for the unpacker, and for the release's file where that has it not.
    fn give(&mut self, position: usize, from: From, chunk: StoredChunk) -> StoredChunk {
        let own = From::File(0, position);
        let written = match self.files.first() {
            Some(file) if self.keeps && from != own => file.write(position, &chunk),
            _ => Ok(false),
        };
        let written = self.kept(written).unwrap_or(false);
        self.given = Given { from, bytes: chunk.data.len(), written };
        chunk
    }

    /// What a file has for a position is no good.
    fn forget(&mut self, file: usize, at: usize, position: usize) {
        let digest = self.verified.chunks[position].digest;
        tracing::warn!("chunk {digest} in the cache of releases is damaged; it is fetched again");
        let forgotten = self.files[file].forget(at);
        self.kept(forgotten);
    }

    /// One by itself, for the cache has not what it should.
    fn fetch(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        self.single.blocking_send(position).map_err(|_| "it cannot be asked for")?;
        let chunk = self.instead.blocking_recv().ok_or("it did not come")?;
        Ok(self.give(position, From::Network, chunk))
    }

    /// After the first failure nothing more is kept of this release.
    fn kept<T>(&mut self, outcome: io::Result<T>) -> Option<T> {
        if let (Err(error), Some(cache)) = (&outcome, &self.cache) {
            self.keeps = false;
            cache.complain(error);
        }
        outcome.ok()
    }
}

impl ChunkSource for &mut Source {
    fn chunk(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        let from = self.from[position];
        let From::File(file, at) = from else {
            let chunk = self.chunks.blocking_recv().ok_or("it did not come")?;
            return Ok(self.give(position, from, chunk));
        };
        match self.files[file].read(at) {
            Ok(chunk) => Ok(self.give(position, from, chunk)),
            Err(error) => {
                // Else another agent has found it damaged, or it was never written.
                if error.kind() != io::ErrorKind::NotFound {
                    self.forget(file, at, position);
                }
                self.fetch(position)
            }
        }
    }

    fn instead(&mut self, position: usize, _refused: &Refused) -> Option<Result<StoredChunk, SourceError>> {
        let From::File(file, at) = self.given.from else { return None };
        self.forget(file, at, position);
        Some(self.fetch(position))
    }

    fn verified(&mut self, position: usize) {
        let Given { from, bytes, written } = self.given;
        if from != From::Network {
            Counts::add(&self.counts.cached, bytes);
        }
        if let Some(file) = self.files.first().filter(|_| written && self.keeps) {
            let kept = file.keep(position, bytes as u32);
            self.has_kept |= self.kept(kept).is_some();
        }
    }
}
