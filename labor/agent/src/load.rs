//! A release, from the order to run it to its unpacked, verified tree.

use std::path::PathBuf;
use std::time::Instant;

use overseer_protocol::proto;
use overseer_protocol::{BootPhase, Cause, ReleaseId};
use overseer_release::{Manifest, Signature, SourceError, StoredChunk, Trust, UnpackError, Verified};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::bulk::{Bulk, BulkError};
use crate::cache::Directory;

/// Chunks between the network and the disk.
const AHEAD: usize = 4;

/// A release that may run.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) id: ReleaseId,
    pub(crate) manifest: Manifest,
    pub(crate) directory: PathBuf,
    /// Bytes that travelled.
    pub(crate) fetched: u64,
    pub(crate) micros: u64,
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

/// Takes it from the cache, or fetches, verifies and unpacks it. Nothing is fetched but the index
/// before that is verified.
pub(crate) async fn load(
    bulk: Bulk,
    directory: Directory,
    id: ReleaseId,
    trust: Trust,
) -> Result<Loaded, LoadError> {
    let start = Instant::now();
    let place = directory.release(id);
    let done = |verified: &Verified, fetched| Loaded {
        id,
        manifest: verified.manifest.clone(),
        directory: place.clone(),
        fetched,
        micros: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    if let Some(stored) = directory.stored_index(id)
        && let Ok(verified) = verify(&stored, &trust)
    {
        return Ok(done(&verified, 0));
    }
    let mut user = bulk.open().await?;
    let request = proto::ReleaseRequest { release: id.to_string() };
    let reply = user.client.release_index(request).await.map_err(BulkError::from)?.into_inner();
    let found = ReleaseId::of_index(&reply.index);
    if found != id {
        return Err(LoadError::OtherRelease(found));
    }
    let verified = verify(&reply, &trust)?;
    let mut fetched = reply.index.len() as u64;
    // A tree without its index is from an agent that was killed in between: the tree is complete
    // all the same, for it is moved into place as a whole.
    if !place.is_dir() {
        let chunks = verified.chunks.iter().map(|c| c.digest.0.to_vec().into()).collect();
        let request = proto::FetchChunksRequest { release: id.to_string(), chunks };
        let pieces = user.client.fetch_chunks(request).await.map_err(BulkError::from)?.into_inner();
        fetched += unpack(&verified, pieces, place.clone()).await?;
    }
    directory.store_index(id, &reply);
    Ok(done(&verified, fetched))
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

/// Unpacks on a blocking thread while chunks arrive; gives the bytes that travelled.
async fn unpack(
    verified: &Verified,
    pieces: Streaming<proto::Piece>,
    place: PathBuf,
) -> Result<u64, LoadError> {
    let (tx, mut rx) = mpsc::channel::<StoredChunk>(AHEAD);
    let for_thread = verified.clone();
    let unpacking = tokio::task::spawn_blocking(move || {
        let source = |_| rx.blocking_recv().ok_or_else(|| SourceError::from("the connection ended"));
        overseer_release::unpack(&for_thread, source, &place)
    });
    let received = receive(verified, pieces, tx).await;
    let unpacked = match unpacking.await {
        Ok(unpacked) => unpacked,
        Err(panic) => return Err(std::io::Error::other(panic).into()),
    };
    // When chunks did not come, that is why it was not unpacked.
    match (received, unpacked) {
        (Err(error), Err(UnpackError::Source { .. })) => Err(error),
        // Another agent with the same cache was faster.
        (Ok(fetched), Ok(()) | Err(UnpackError::Exists(_))) => Ok(fetched),
        (_, Err(error)) => Err(error.into()),
        (Err(error), Ok(())) => Err(error),
    }
}

async fn receive(
    verified: &Verified,
    mut pieces: Streaming<proto::Piece>,
    tx: mpsc::Sender<StoredChunk>,
) -> Result<u64, LoadError> {
    let mut fetched = 0;
    for chunk in &verified.chunks {
        let mut stored = StoredChunk { zstd: false, data: Vec::new() };
        loop {
            let piece = pieces.message().await.map_err(BulkError::from)?;
            let piece = piece.ok_or_else(|| {
                BulkError::from(tonic::Status::data_loss("the chunks ended early; load the release again"))
            })?;
            if piece.digest[..] != chunk.digest.0 {
                let found = piece.digest.iter().map(|b| format!("{b:02x}")).collect();
                return Err(LoadError::OtherChunk { found, expected: chunk.digest.to_string() });
            }
            fetched += piece.data.len() as u64;
            stored.zstd |= piece.zstd;
            if stored.data.is_empty() {
                stored.data = piece.data.into();
            } else {
                stored.data.extend_from_slice(&piece.data);
            }
            // The decoder refuses it by name; more of it need not be kept for that.
            if piece.last || stored.data.len() > chunk.size as usize {
                break;
            }
        }
        if tx.send(stored).await.is_err() {
            // The unpacker has refused something and says what.
            break;
        }
    }
    Ok(fetched)
}
