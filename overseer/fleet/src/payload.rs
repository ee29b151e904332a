//! Payloads and results that are too large for a message: kept as blobs for as long as a call
//! needs them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use overseer_protocol::MAX_PAYLOAD;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use crate::blobs::{BlobError, Blobs, DirectoryBlobs, Reader};
use crate::call::CallError;
use crate::condition::Condition;
use crate::store::Durability;

/// A place for large payloads, apart from the blobs that outlive their call.
pub(crate) struct Payloads {
    blobs: DirectoryBlobs,
    /// How often each digest is in use: the same bytes are one blob.
    uses: Mutex<HashMap<String, usize>>,
    /// Results that were put and not announced yet, a use each.
    arrived: Mutex<Vec<(Instant, String)>>,
}

/// A labor announces a result right after it has put it. One that it did not announce by then was
/// lost with its session.
const ANNOUNCED: Duration = Duration::from_secs(300);
/// Results that were put and not announced yet; then the oldest go.
const ARRIVED: usize = 4096;

impl Payloads {
    /// In a directory of its own. What is left there is of calls that nobody waits for any more.
    pub(crate) async fn open(directory: &Path, condition: Arc<Condition>) -> Result<Self, BlobError> {
        let blobs = DirectoryBlobs::open_telling(directory, Durability::Ephemeral, condition)?;
        for left in blobs.list().await? {
            blobs.remove(&left.info.digest).await?;
        }
        Ok(Self { blobs, uses: Mutex::default(), arrived: Mutex::default() })
    }

    /// Keeps a payload until what is returned is dropped.
    pub(crate) async fn keep(self: &Arc<Self>, payload: Bytes) -> Result<Kept, CallError> {
        // Counted before it is stored, so that nobody removes it in between.
        let digest = blake3::hash(&payload).to_hex().to_string();
        let kept = self.hold(digest);
        let reader: Reader = Box::pin(std::io::Cursor::new(payload));
        self.blobs.put(reader, MAX_PAYLOAD as u64).await.map_err(failed)?;
        Ok(kept)
    }

    /// Takes in what a labor sends as a result; it stays until its announcement was
    /// [accepted](Payloads::accept) and what that gave is dropped.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        reader: Reader,
    ) -> Result<crate::blobs::BlobInfo, BlobError> {
        let received = self.blobs.receive(reader, MAX_PAYLOAD as u64).await?;
        // Counted before it has its name: another result with the same bytes may go just now.
        let kept = self.hold(received.digest());
        let info = self.blobs.keep(received).await?;
        let now = Instant::now();
        let mut arrived = self.arrived.lock();
        arrived.push((now, kept.into_digest()));
        let too_many = arrived.len().saturating_sub(ARRIVED);
        let mut place = 0;
        let late: Vec<Kept> = arrived
            .extract_if(.., |(at, _)| {
                place += 1;
                place <= too_many || now.duration_since(*at) > ANNOUNCED
            })
            .map(|(_, digest)| self.held(digest))
            .collect();
        drop(arrived);
        drop(late);
        Ok(info)
    }

    /// The result that a labor announces. None when it has put no such result.
    pub(crate) fn accept(self: &Arc<Self>, digest: &str) -> Option<Kept> {
        let mut arrived = self.arrived.lock();
        let place = arrived.iter().position(|(_, d)| d == digest)?;
        let (_, digest) = arrived.swap_remove(place);
        Some(self.held(digest))
    }

    /// Reads a result.
    pub(crate) async fn read(&self, kept: &Kept) -> Result<Bytes, CallError> {
        let (info, mut reader) = self.blobs.get(kept.digest()).await.map_err(failed)?;
        let mut bytes = Vec::with_capacity(info.size.min(MAX_PAYLOAD as u64) as usize);
        reader.read_to_end(&mut bytes).await.map_err(|e| CallError::Blobs(e.to_string()))?;
        Ok(bytes.into())
    }

    /// Reads a payload, for the labor that fetches it.
    pub(crate) async fn get(&self, digest: &str) -> Result<(crate::blobs::BlobInfo, Reader), BlobError> {
        self.blobs.get(digest).await
    }

    fn hold(self: &Arc<Self>, digest: String) -> Kept {
        *self.uses.lock().entry(digest.clone()).or_default() += 1;
        self.held(digest)
    }

    /// Of a use that was counted before.
    fn held(self: &Arc<Self>, digest: String) -> Kept {
        Kept { payloads: Arc::clone(self), digest }
    }
}

fn failed(error: BlobError) -> CallError {
    CallError::Blobs(error.to_string())
}

/// One use of a payload; the last one that is dropped removes it.
pub(crate) struct Kept {
    payloads: Arc<Payloads>,
    digest: String,
}

impl Kept {
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Leaves the use counted.
    fn into_digest(mut self) -> String {
        std::mem::take(&mut self.digest)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.digest)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut uses = self.payloads.uses.lock();
        let left = uses.get_mut(&self.digest).map(|n| {
            *n = n.saturating_sub(1);
            *n
        });
        if left == Some(0) {
            uses.remove(&self.digest);
            // Under the lock, so that a new use of the same bytes does not lose them.
            self.payloads.blobs.remove_now(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Box::pin(bytes)
    }

    #[tokio::test]
    async fn a_payload_stays_as_long_as_anybody_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let payloads = Arc::new(Payloads::open(directory.path(), Arc::default()).await.unwrap());
        let sent = payloads.keep(Bytes::from_static(b"same")).await.unwrap();
        let digest = payloads.receive(reader(b"same")).await.unwrap().digest;
        assert_eq!(sent.digest(), digest);
        let result = payloads.accept(&digest).unwrap();
        assert!(payloads.accept(&digest).is_none(), "it was announced once");
        drop(sent);
        assert_eq!(payloads.read(&result).await.unwrap(), "same");
        drop(result);
        assert!(matches!(payloads.get(&digest).await, Err(BlobError::Missing(_))));
    }

    #[tokio::test]
    async fn results_that_nobody_announces_have_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let payloads = Arc::new(Payloads::open(directory.path(), Arc::default()).await.unwrap());
        let first = payloads.receive(reader(b"first")).await.unwrap().digest;
        for _ in 0..ARRIVED {
            payloads.receive(reader(b"more")).await.unwrap();
        }
        assert!(payloads.accept(&first).is_none(), "the oldest is gone");
        assert_eq!(payloads.arrived.lock().len(), ARRIVED);
    }

    #[tokio::test]
    async fn what_an_overseer_that_was_killed_has_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let payloads = Payloads::open(directory.path(), Arc::default()).await.unwrap();
        let digest = Arc::new(payloads).receive(reader(b"left")).await.unwrap().digest;
        let payloads = Payloads::open(directory.path(), Arc::default()).await.unwrap();
        assert!(matches!(payloads.get(&digest).await, Err(BlobError::Missing(_))));
    }
}
