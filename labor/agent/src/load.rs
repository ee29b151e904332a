//! A release, from the order to run it to its unpacked, verified tree.
//!
//! A blocking thread unpacks, and takes each chunk from the cache of the host or from the network;
//! beside it what is missing is fetched, and fetched on after the connection broke.

mod fetch;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use overseer_protocol::proto;
use overseer_protocol::{BootPhase, Cause, ReleaseId};
use overseer_release::{Manifest, Signature, Trust, UnpackError, Verified};

use self::fetch::Fetch;
use self::source::{Source, Wanted};
use crate::bulk::{Bulk, BulkError};
use crate::cache::Directory;
use crate::host_cache::{HostCache, InUse, Kept};

/// Where releases come from, and where they go. Clones are the same.
#[derive(Clone)]
pub(crate) struct Loader {
    pub(crate) bulk: Bulk,
    pub(crate) directory: Directory,
    /// What the agents of the host share; none where there is no use in it.
    pub(crate) cache: Option<Arc<HostCache>>,
}

/// A release that may run.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) id: ReleaseId,
    pub(crate) manifest: Manifest,
    pub(crate) directory: PathBuf,
    pub(crate) bytes: Bytes,
    pub(crate) micros: u64,
    /// It stays in the cache while it is, or may be, running.
    _in_use: Option<InUse>,
}

/// Where the bytes of a release came from; as they were there, so compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Travelled.
    pub(crate) fetched: u64,
    /// The cache of the host had them.
    pub(crate) cached: u64,
}

/// The same while they come.
#[derive(Debug, Default)]
struct Counts {
    fetched: AtomicU64,
    cached: AtomicU64,
}

/// Why it may not, or did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}")]
    Fetch(#[from] BulkError),
    #[error("{reason} ({code})")]
    Unpack { reason: String, code: &'static str },
    #[error("the Overseer sent the index of {0} instead; load the release again")]
    OtherRelease(ReleaseId),
    #[error("the Overseer sent chunk {found} in place of {expected}; load the release again")]
    OtherChunk { found: String, expected: String },
    #[error("the chunks ended early")]
    EndedEarly,
    #[error("the release's directory: {0}; check space and permissions there")]
    Disk(#[from] std::io::Error),
}

impl LoadError {
    /// As it is reported.
    pub(crate) fn cause(&self) -> Cause {
        Cause::BootFailed { phase: BootPhase::Load, reason: self.to_string() }
    }
}

impl From<UnpackError> for LoadError {
    fn from(error: UnpackError) -> Self {
        Self::Unpack { code: error.code(), reason: overseer_protocol::error_text(&error) }
    }
}

impl Counts {
    fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> Bytes {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Bytes { fetched: of(&self.fetched), cached: of(&self.cached) }
    }
}

/// What was signed of a release, and may run.
struct Found {
    reply: proto::ReleaseIndexReply,
    verified: Verified,
    /// What the cache has of it.
    kept: Option<Kept>,
}

impl Loader {
    /// Whether the first release must surely be fetched.
    pub(crate) fn has_nothing(&self) -> bool {
        self.directory.has_no_release() && self.cache.as_ref().is_none_or(|cache| cache.is_empty())
    }

    /// Takes it from the agent's directory, else from the cache of the host, else from the Overseer;
    /// verifies and unpacks it. Nothing but the index is fetched before that is verified. A broken
    /// connection is no end: it goes on, for as long as the caller waits.
    pub(crate) async fn load(self, id: ReleaseId, trust: Trust) -> Result<Loaded, LoadError> {
        let start = Instant::now();
        let place = self.directory.release(id);
        let done = |verified: &Verified, in_use, bytes| Loaded {
            id,
            manifest: verified.manifest.clone(),
            directory: place.clone(),
            bytes,
            micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            _in_use: in_use,
        };
        if let Some(stored) = self.directory.stored_index(id)
            && let Ok(verified) = verify(&stored, &trust)
        {
            let kept = self.cache.as_ref().and_then(|cache| cache.find(id));
            return Ok(done(&verified, kept.map(|kept| kept.in_use()), Bytes::default()));
        }
        let counts = Arc::new(Counts::default());
        let found = match self.cached_index(id, &trust) {
            Some(found) => {
                Counts::add(&counts.cached, found.reply.index.len());
                found
            }
            None => self.fetched_index(id, &trust, &counts).await?,
        };
        let Found { reply, verified, kept } = found;
        let (reply, verified) = (Arc::new(reply), Arc::new(verified));
        let mut in_use = kept.as_ref().map(Kept::in_use);
        // A tree without its index is from an agent that was killed in between: the tree is complete
        // all the same, for it is moved into place as a whole.
        if !place.is_dir() {
            let source = Source::new(verified.clone(), self.cache.clone(), kept, counts.clone());
            in_use = self.unpack(source, &verified, &reply, &counts, place.clone()).await?.or(in_use);
        }
        self.directory.store_index(id, &reply);
        Ok(done(&verified, in_use, counts.bytes()))
    }

    /// Another agent of the host has had it. Whoever signed it may be trusted here or not.
    fn cached_index(&self, id: ReleaseId, trust: &Trust) -> Option<Found> {
        let kept = self.cache.as_ref()?.find(id)?;
        let reply = kept.reply().clone();
        let verified = verify(&reply, trust).ok()?;
        Some(Found { reply, verified, kept: Some(kept) })
    }

    async fn fetched_index(&self, id: ReleaseId, trust: &Trust, counts: &Counts) -> Result<Found, LoadError> {
        let reply = fetch::index(&self.bulk, id).await?;
        Counts::add(&counts.fetched, reply.index.len());
        let found = ReleaseId::of_index(&reply.index);
        if found != id {
            return Err(LoadError::OtherRelease(found));
        }
        let verified = verify(&reply, trust)?;
        Ok(Found { reply, verified, kept: None })
    }

    /// Unpacks on a blocking thread while chunks arrive.
    async fn unpack(
        &self,
        (mut source, wanted): (Source, Wanted),
        verified: &Arc<Verified>,
        reply: &Arc<proto::ReleaseIndexReply>,
        counts: &Counts,
        place: PathBuf,
    ) -> Result<Option<InUse>, LoadError> {
        let (for_thread, reply) = (verified.clone(), reply.clone());
        let mut unpacking = tokio::task::spawn_blocking(move || {
            source.ask(&reply);
            let unpacked = overseer_release::unpack(&for_thread, &mut source, &place);
            (unpacked, source.in_use(), source.has_kept())
        });
        let fetch = Fetch { bulk: &self.bulk, verified, fetched: &counts.fetched };
        let (failed, unpacked) = tokio::select! {
            unpacked = &mut unpacking => (None, unpacked),
            failed = deliver(&fetch, wanted) => (Some(failed), (&mut unpacking).await),
        };
        let (unpacked, in_use, has_kept) = match unpacked {
            Ok(done) => done,
            Err(panic) => return Err(std::io::Error::other(panic).into()),
        };
        if let Some(cache) = self.cache.clone().filter(|_| has_kept) {
            // Nobody waits for it.
            tokio::task::spawn_blocking(move || cache.evict_surplus());
        }
        match (failed, unpacked) {
            // Another agent with the same directory was faster.
            (_, Ok(()) | Err(UnpackError::Exists(_))) => Ok(in_use),
            // When chunks did not come, that is why it was not unpacked.
            (Some(error), Err(UnpackError::Source { .. })) => Err(error),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

/// Fetches what is wanted until something cannot be had. Whoever wants it sees that nothing comes.
async fn deliver(fetch: &Fetch<'_>, wanted: Wanted) -> LoadError {
    let Wanted { missing, chunks, single, instead } = wanted;
    let all = async {
        let missing = missing.await.unwrap_or_default();
        fetch.chunks(&missing, &chunks).await
    };
    // One that the cache had, and that was no good: it is not kept waiting by those that come later.
    let again = async {
        let mut single = single;
        while let Some(position) = single.recv().await {
            fetch.chunks(&[position], &instead).await?;
        }
        Ok(())
    };
    match tokio::try_join!(all, again) {
        Ok(_) => std::future::pending().await,
        Err(error) => error,
    }
}

fn verify(reply: &proto::ReleaseIndexReply, trust: &Trust) -> Result<Verified, LoadError> {
    let mut signatures = Vec::with_capacity(reply.signatures.len());
    for signature in &reply.signatures {
        // What cannot be a signature is none; whether one is needed is not decided here.
        if let (Ok(key), Ok(signature)) = (signature.key[..].try_into(), signature.signature[..].try_into()) {
            signatures.push(Signature { key, signature });
        }
    }
    overseer_release::verify(&reply.index, &signatures, trust).map_err(|r| UnpackError::from(r).into())
}
