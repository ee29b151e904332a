//! Chunks over the network, across broken connections.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use overseer_protocol::{ReleaseId, proto};
use overseer_release::{StoredChunk, Verified};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::{Counts, LoadError};
use crate::backoff::{Backoff, system_random};
use crate::bulk::{Bulk, BulkError};
use crate::connect::ConnectError;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Chunks that are asked for at once: their names are far less than a message may have.
const AT_ONCE: usize = 4096;

/// Fetches chunks of one release.
pub(super) struct Fetch<'a> {
    pub(super) bulk: &'a Bulk,
    pub(super) verified: &'a Verified,
    /// Bytes that have travelled, also for nothing.
    pub(super) fetched: &'a AtomicU64,
}

/// What was signed of a release.
pub(super) async fn index(bulk: &Bulk, id: ReleaseId) -> Result<proto::ReleaseIndexReply, LoadError> {
    let mut tries = Tries::new(id);
    loop {
        let answer = async {
            let mut user = bulk.open().await?;
            let request = proto::ReleaseRequest { release: id.to_string() };
            Ok(user.client.release_index(request).await.map_err(BulkError::from)?.into_inner())
        };
        match answer.await {
            Ok(reply) => return Ok(reply),
            Err(error) => tries.again(error).await?,
        }
    }
}

impl Fetch<'_> {
    /// Hands over the chunks at these positions, in this order, until nobody wants them any more.
    ///
    /// # Errors
    /// They cannot be had, however often one tries.
    pub(super) async fn chunks(
        &self,
        positions: &[usize],
        to: &mpsc::Sender<StoredChunk>,
    ) -> Result<(), LoadError> {
        let mut tries = Tries::new(self.verified.id());
        let mut left = positions;
        while !left.is_empty() {
            let before = left.len();
            let broken = self.some(&mut left, to).await;
            if to.is_closed() {
                return Ok(());
            }
            if left.len() < before {
                tries = Tries::new(self.verified.id());
            }
            if let Err(error) = broken {
                tries.again(error).await?;
            }
        }
        Ok(())
    }

    /// One request, and what comes of it; takes off `left` what has come.
    async fn some(&self, left: &mut &[usize], to: &mpsc::Sender<StoredChunk>) -> Result<(), LoadError> {
        let asked = &left[..left.len().min(AT_ONCE)];
        let chunks = asked.iter().map(|at| self.verified.chunks[*at].digest.0.to_vec().into()).collect();
        let request = proto::FetchChunksRequest { release: self.verified.id().to_string(), chunks };
        let mut user = self.bulk.open().await?;
        let mut pieces = user.client.fetch_chunks(request).await.map_err(BulkError::from)?.into_inner();
        for position in asked {
            let chunk = tokio::select! {
                chunk = self.chunk(*position, &mut pieces) => chunk?,
                // There is a better connection: what is missing is asked for over that one.
                Ok(()) = user.given_up.changed() => return Ok(()),
            };
            if to.send(chunk).await.is_err() {
                return Ok(());
            }
            *left = &left[1..];
        }
        Ok(())
    }

    async fn chunk(
        &self,
        position: usize,
        pieces: &mut Streaming<proto::Piece>,
    ) -> Result<StoredChunk, LoadError> {
        let declared = &self.verified.chunks[position];
        let mut stored = StoredChunk { zstd: false, data: Vec::new() };
        loop {
            let piece = pieces.message().await.map_err(BulkError::from)?.ok_or(LoadError::EndedEarly)?;
            Counts::add(self.fetched, piece.data.len());
            if piece.digest[..] != declared.digest.0 {
                let found = piece.digest.iter().map(|b| format!("{b:02x}")).collect();
                return Err(LoadError::OtherChunk { found, expected: declared.digest.to_string() });
            }
            stored.zstd |= piece.zstd;
            if stored.data.is_empty() {
                stored.data = piece.data.into();
            } else {
                stored.data.extend_from_slice(&piece.data);
            }
            // The decoder refuses it by name; more of it need not be kept for that.
            if piece.last || stored.data.len() > declared.size as usize {
                return Ok(stored);
            }
        }
    }
}

/// What is done about failures in a row.
struct Tries {
    release: ReleaseId,
    backoff: Backoff,
    said: String,
}

impl Tries {
    fn new(release: ReleaseId) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, system_random);
        Self { release, backoff, said: String::new() }
    }

    /// Waits, for another try to be of use; the error, where it is of none.
    async fn again(&mut self, error: LoadError) -> Result<(), LoadError> {
        if !may_pass(&error) {
            return Err(error);
        }
        let why = error.to_string();
        // Said once, however often it is tried.
        if self.said != why {
            tracing::warn!("release {} is still being fetched, trying again: {why}", self.release.short());
            self.said = why;
        }
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }
}

/// Whether the next try may have another outcome. One whose certificate has run out has a newer one
/// soon.
fn may_pass(error: &LoadError) -> bool {
    match error {
        LoadError::EndedEarly => true,
        LoadError::Fetch(BulkError::Status(status)) => !matches!(
            status.code(),
            Code::NotFound
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::DataLoss
        ),
        LoadError::Fetch(BulkError::Connect(error)) => matches!(error, ConnectError::Unreachable { .. }),
        LoadError::Fetch(error) => matches!(error, BulkError::NoSession),
        _ => false,
    }
}
