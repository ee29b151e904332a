//! The second connection: releases, blobs, logs. Opened when it is needed, closed when idle.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::{self, bulk_client::BulkClient};
use overseer_protocol::{MAX_MESSAGE, PIECE};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::as_user::AsUser;
use crate::connect::{self, Purpose};
use crate::session::Standing;

/// How long the connection stays without use.
const IDLE: Duration = Duration::from_secs(5);
/// Payloads that are fetched at once.
const MOST_FETCHES: usize = 4;

/// Why bytes did not travel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    #[error("there is no session with the Overseer yet")]
    NoSession,
    #[error("{0}")]
    Connect(#[from] connect::ConnectError),
    #[error("the Overseer answered {}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("blob {digest} came damaged: its bytes have digest {found}")]
    Damaged { digest: String, found: String },
    #[error("blob {0} is larger than the {1} bytes allowed")]
    TooLarge(String, usize),
    #[error("the Overseer sent a compressed blob, which is only agreed for releases; upgrade the labor")]
    Compressed,
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
}

/// The connection, there or not. Clones are the same.
#[derive(Clone)]
pub(crate) struct Bulk {
    standing: Standing,
    /// Held while connecting, so that two users open one connection.
    state: Arc<tokio::sync::Mutex<Option<Channel>>>,
    usage: Arc<Mutex<Usage>>,
    /// Changes when the connection is given up.
    resets: watch::Sender<()>,
    /// Blobs that are held in memory while they come.
    fetches: Arc<Semaphore>,
}

struct Usage {
    users: usize,
    last: Instant,
    watched: bool,
}

/// Somebody uses the connection: it is not closed meanwhile.
pub(crate) struct InUse {
    usage: Arc<Mutex<Usage>>,
    pub(crate) client: BulkClient<Channel>,
    /// Changes when there is a better connection, for a user that can move to it. One that cannot
    /// goes on; if the connection is dead its keepalive says so.
    pub(crate) given_up: watch::Receiver<()>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut usage = self.usage.lock();
        usage.users -= 1;
        usage.last = Instant::now();
    }
}

impl Bulk {
    pub(crate) fn new(standing: Standing) -> Self {
        let usage = Usage { users: 0, last: Instant::now(), watched: false };
        Self {
            standing,
            state: Arc::default(),
            usage: Arc::new(Mutex::new(usage)),
            resets: watch::Sender::new(()),
            fetches: Arc::new(Semaphore::new(MOST_FETCHES)),
        }
    }

    /// Opens the connection already, for what will surely come.
    pub(crate) fn prepare(&self) {
        let bulk = self.clone();
        tokio::spawn(async move {
            if let Err(error) = bulk.open().await {
                tracing::debug!("the bulk connection is not ready: {error}");
            }
        });
    }

    /// Drops the connection: the next use opens one to where the session is now, as who we are now.
    pub(crate) fn reset(&self) {
        // While somebody connects, the connection is new anyway.
        if let Ok(mut state) = self.state.try_lock() {
            *state = None;
            self.resets.send_replace(());
        }
    }

    /// A client for one use.
    pub(crate) async fn open(&self) -> Result<InUse, BulkError> {
        let mut state = self.state.lock().await;
        let channel = match &*state {
            Some(channel) => channel.clone(),
            None => {
                let (endpoint, credentials) = self.standing.place().ok_or(BulkError::NoSession)?;
                let channel = connect::connect(&endpoint, &credentials, Purpose::Bulk).await?;
                state.insert(channel).clone()
            }
        };
        drop(state);
        let mut usage = self.usage.lock();
        usage.users += 1;
        if !usage.watched {
            usage.watched = true;
            tokio::spawn(self.clone().close_when_idle());
        }
        let client = BulkClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(InUse { usage: self.usage.clone(), client, given_up: self.resets.subscribe() })
    }

    async fn close_when_idle(self) {
        loop {
            let until = self.usage.lock().last + IDLE;
            // At least a second, for a user may hold it for hours.
            tokio::time::sleep_until(until.max(Instant::now() + Duration::from_secs(1))).await;
            let mut state = self.state.lock().await;
            let mut usage = self.usage.lock();
            if usage.users == 0 && usage.last + IDLE <= Instant::now() {
                *state = None;
                usage.watched = false;
                return;
            }
        }
    }

    /// A blob's bytes, at most `limit`, checked against the digest.
    pub(crate) async fn fetch(&self, digest: &str, limit: usize) -> Result<Bytes, BulkError> {
        // Never closed, so there is always a turn.
        let _turn = self.fetches.acquire().await;
        let mut bytes = Vec::new();
        let mut blob = self.blob(digest).await?;
        while let Some(data) = blob.next().await? {
            if bytes.len() + data.len() > limit {
                return Err(BulkError::TooLarge(digest.to_owned(), limit));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    }

    /// A blob into a file that is complete or not there, with the rights of `user`.
    pub(crate) async fn fetch_to(&self, digest: &str, path: &Path, user: AsUser) -> Result<u64, BulkError> {
        let file_error = |source| BulkError::File { path: path.display().to_string(), source };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let fetching = async {
            let mut blob = self.blob(digest).await?;
            let mut file = user.create(part.clone().into()).await.map_err(file_error)?;
            while let Some(data) = blob.next().await? {
                file.write_all(&data).await.map_err(file_error)?;
            }
            file.flush().await.map_err(file_error)?;
            user.rename(part.clone().into(), path.to_owned()).await.map_err(file_error)?;
            Ok(blob.size)
        };
        let done = fetching.await;
        if done.is_err() {
            let _ = user.remove(part.into()).await;
        }
        done
    }

    async fn blob(&self, digest: &str) -> Result<Blob, BulkError> {
        let mut user = self.open().await?;
        let request = proto::FetchBlobRequest { digest: digest.to_owned() };
        let pieces = user.client.fetch_blob(request).await?.into_inner();
        let hasher = blake3::Hasher::new();
        Ok(Blob { digest: digest.to_owned(), pieces, hasher, size: 0, _user: user })
    }

    /// Leaves the result of a call at the Overseer until it is read; gives its digest.
    pub(crate) async fn put(&self, bytes: Bytes) -> Result<String, BulkError> {
        let (tx, rx) = mpsc::channel(2);
        let feed = async move {
            let mut rest = bytes;
            loop {
                let data = rest.split_to(rest.len().min(PIECE));
                let last = rest.is_empty();
                let piece = proto::Piece { data, last, transient: true, ..Default::default() };
                if tx.send(piece).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let reply = self.send(rx, feed).await?;
        Ok(reply.digest)
    }

    /// Keeps a file's bytes at the Overseer, read with the rights of `user`; gives digest and size.
    pub(crate) async fn put_file(&self, path: &Path, user: AsUser) -> Result<(String, u64), BulkError> {
        let (tx, rx) = mpsc::channel(2);
        let file_error = |source| BulkError::File { path: path.display().to_string(), source };
        let mut file = user.open(path.to_owned()).await.map_err(file_error)?;
        let feed = async move {
            loop {
                let mut data = Vec::with_capacity(PIECE);
                (&mut file).take(PIECE as u64).read_to_end(&mut data).await.map_err(file_error)?;
                let last = data.len() < PIECE;
                let piece = proto::Piece { data: data.into(), last, ..Default::default() };
                if tx.send(piece).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let reply = self.send(rx, feed).await?;
        Ok((reply.digest, reply.size))
    }

    async fn send(
        &self,
        pieces: mpsc::Receiver<proto::Piece>,
        feed: impl Future<Output = Result<(), BulkError>>,
    ) -> Result<proto::PutBlobReply, BulkError> {
        let mut user = self.open().await?;
        let (reply, fed) = tokio::join!(user.client.put_blob(ReceiverStream::new(pieces)), feed);
        fed?;
        Ok(reply?.into_inner())
    }
}

struct Blob {
    digest: String,
    pieces: Streaming<proto::Piece>,
    hasher: blake3::Hasher,
    size: u64,
    _user: InUse,
}

impl Blob {
    /// The next bytes; an error instead of the end when they were not the blob's.
    async fn next(&mut self) -> Result<Option<Bytes>, BulkError> {
        match self.pieces.message().await? {
            Some(piece) if piece.zstd => Err(BulkError::Compressed),
            Some(piece) => {
                self.hasher.update(&piece.data);
                self.size += piece.data.len() as u64;
                Ok(Some(piece.data))
            }
            None => {
                let found = self.hasher.finalize().to_hex().to_string();
                if found == self.digest {
                    return Ok(None);
                }
                Err(BulkError::Damaged { digest: self.digest.clone(), found })
            }
        }
    }
}
