//! Where the unpacker has each chunk from: the cache of the host, or the network. What came over the
//! network is kept in the cache once the unpacker has verified it.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use overseer_release::{ChunkSource, Refused, SourceError, StoredChunk, Verified};
use tokio::sync::{mpsc, oneshot};

use super::Counts;
use crate::host_cache::{HostCache, Partial};

/// Chunks between the network and the disk.
const AHEAD: usize = 4;

/// The unpacker's side; it blocks.
pub(super) struct Source {
    verified: Arc<Verified>,
    cache: Option<Arc<HostCache>>,
    counts: Arc<Counts>,
    /// What is kept goes into the cache, and something has.
    keeps: bool,
    has_kept: bool,
    asks: Option<oneshot::Sender<Vec<usize>>>,
    /// By position: whether it is on its way.
    comes: Vec<bool>,
    chunks: mpsc::Receiver<StoredChunk>,
    single: mpsc::Sender<usize>,
    instead: mpsc::Receiver<StoredChunk>,
    /// What the unpacker has just got.
    given: Given,
}

/// A chunk that the unpacker looks at.
enum Given {
    Fetched(Option<Partial>),
    /// Of so many bytes.
    Cached(usize),
}

impl Given {
    const NOTHING: Self = Self::Cached(0);
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
    pub(super) fn new(
        verified: Arc<Verified>,
        cache: Option<Arc<HostCache>>,
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
            keeps: false,
            has_kept: false,
            asks: Some(asks),
            comes: Vec::new(),
            chunks,
            single,
            instead,
            given: Given::NOTHING,
        };
        (source, Wanted { missing, chunks: to_chunks, single: for_single, instead: to_instead })
    }

    /// Looks what the cache has, and asks for the rest.
    pub(super) fn ask(&mut self) {
        let mut missing = Vec::new();
        if let Some(cache) = &self.cache {
            let mut coming = HashSet::new();
            // What comes twice in a release is fetched once, and then in the cache.
            let is_missing = |chunk| !cache.has(chunk);
            self.comes = self.verified.chunks.iter().map(is_missing).collect();
            if self.comes.contains(&true) {
                let room = cache.make_room(self.verified.size);
                self.keeps = room.inspect_err(|error| cache.complain(error)).is_ok();
            }
            if self.keeps {
                let chunks = self.comes.iter_mut().zip(&self.verified.chunks);
                chunks.for_each(|(comes, chunk)| *comes = *comes && coming.insert(chunk.digest));
            }
        } else {
            self.comes = vec![true; self.verified.chunks.len()];
        }
        missing.extend(self.comes.iter().enumerate().filter(|(_, comes)| **comes).map(|(at, _)| at));
        if let Some(asks) = self.asks.take() {
            // Nobody there: the load was given up, and the first chunk that does not come says so.
            let _ = asks.send(missing);
        }
    }

    /// A chunk that came, or why none does; on its way into the cache.
    fn came(&mut self, position: usize, chunk: Option<StoredChunk>) -> Result<StoredChunk, SourceError> {
        let chunk = chunk.ok_or("it did not come")?;
        let written = match &self.cache {
            Some(cache) if self.keeps => cache.write(&self.verified.chunks[position], &chunk),
            _ => Ok(None),
        };
        self.given = Given::Fetched(self.kept(written).flatten());
        Ok(chunk)
    }

    /// One by itself, for the cache has not what it should.
    fn fetch(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        self.single.blocking_send(position).map_err(|_| "it cannot be asked for")?;
        let chunk = self.instead.blocking_recv();
        self.came(position, chunk)
    }

    /// After the first failure nothing more is kept of this release.
    fn kept<T>(&mut self, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(kept) => Some(kept),
            Err(error) => {
                self.keeps = false;
                if let Some(cache) = &self.cache {
                    cache.complain(&error);
                }
                None
            }
        }
    }

    fn forget(&mut self) {
        let given = std::mem::replace(&mut self.given, Given::NOTHING);
        if let (Some(cache), Given::Fetched(Some(partial))) = (&self.cache, given) {
            cache.forget(partial);
        }
    }

    /// Whether the cache has more than before.
    pub(super) fn has_kept(&self) -> bool {
        self.has_kept
    }
}

impl ChunkSource for &mut Source {
    fn chunk(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        let Some(cache) = self.cache.as_ref().filter(|_| !self.comes[position]) else {
            let chunk = self.chunks.blocking_recv();
            return self.came(position, chunk);
        };
        match cache.read(&self.verified.chunks[position]) {
            Ok(chunk) => {
                self.given = Given::Cached(chunk.data.len());
                Ok(chunk)
            }
            // Evicted a moment ago, or never written.
            Err(_) => self.fetch(position),
        }
    }

    fn instead(&mut self, position: usize, _refused: &Refused) -> Option<Result<StoredChunk, SourceError>> {
        match (&self.given, &self.cache) {
            (Given::Cached(_), Some(cache)) => {
                cache.remove(&self.verified.chunks[position].digest);
                Some(self.fetch(position))
            }
            _ => {
                self.forget();
                None
            }
        }
    }

    fn verified(&mut self, _position: usize) {
        match (std::mem::replace(&mut self.given, Given::NOTHING), &self.cache) {
            (Given::Cached(bytes), _) => Counts::add(&self.counts.cached, bytes),
            (Given::Fetched(Some(partial)), Some(cache)) => {
                let kept = cache.keep(partial);
                self.has_kept |= self.kept(kept).is_some();
            }
            (Given::Fetched(_), _) => {}
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Of a load that came to nothing.
        self.forget();
    }
}
