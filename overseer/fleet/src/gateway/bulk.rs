mod until;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use overseer_protocol::proto::bulk_server::Bulk;
use overseer_protocol::proto::{
    FetchBlobRequest, FetchChunksRequest, LogAck, LogPush, Piece, PutBlobReply, ReleaseIndexReply,
    ReleaseRequest, Signature,
};
use overseer_protocol::{Attempt, LogStream, PIECE, TaskId};
use overseer_release::{Digest, Package};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};

use self::until::Expiry;
use super::Gateway;
use super::peer::Peer;
use crate::blobs::{BlobError, Reader};
use crate::condition;
use crate::fleet::FleetHandle;
use crate::labor::LaborShared;
use crate::logs::{LogError, Push};

/// Messages that wait for a slow labor; then reading waits.
const AHEAD: usize = 8;
/// Largest blob that a labor may put, in bytes.
const MAX_BLOB: u64 = 64 << 30;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Bulk for Gateway {
    type FetchChunksStream = Out<Piece>;
    type FetchBlobStream = Out<Piece>;
    type PushLogsStream = Out<LogAck>;

    async fn release_index(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseIndexReply>, Status> {
        let (package, _) = self.package(&request, &request.get_ref().release)?;
        let signatures = package
            .signatures()
            .iter()
            .map(|s| Signature { key: s.key.to_vec().into(), signature: s.signature.to_vec().into() });
        Ok(Response::new(ReleaseIndexReply {
            index: Bytes::copy_from_slice(package.index_bytes()),
            signatures: signatures.collect(),
        }))
    }

    async fn fetch_chunks(
        &self,
        request: Request<FetchChunksRequest>,
    ) -> Result<Response<Self::FetchChunksStream>, Status> {
        let (package, expiry) = self.package(&request, &request.get_ref().release)?;
        let positions = positions(&package, &request.get_ref().chunks)?;
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || send_chunks(&package, positions, &send));
        Ok(Response::new(Box::pin(expiry.cut(ReceiverStream::new(receive)))))
    }

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let expiry = Expiry::at(self.peer(&request)?.not_after);
        let digest = &request.get_ref().digest;
        // The payload of a call or of a task, or a blob that outlives them.
        let mut found = self.plane.payloads().get(digest).await;
        for blobs in [self.plane.task_blobs(), self.plane.blobs()] {
            if matches!(found, Err(BlobError::Missing(_))) {
                found = blobs.get(digest).await;
            }
        }
        let (_, reader) = found.map_err(|e| blob_status(&e))?;
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(send_blob(reader, send));
        Ok(Response::new(Box::pin(expiry.cut(ReceiverStream::new(receive)))))
    }

    async fn put_blob(&self, request: Request<Streaming<Piece>>) -> Result<Response<PutBlobReply>, Status> {
        let expiry = Expiry::at(self.peer(&request)?.not_after);
        // Half a blob leaves nothing behind.
        expiry.limit(self.keep_blob(request.into_inner())).await.map(Response::new)
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<LogPush>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let Peer { labor, identity, not_after, fleet, .. } = self.peer(&request)?;
        let expiry = Expiry::at(not_after);
        let open = labor.pushes(identity.generation);
        let logs = self.plane.logs();
        let mut pushes = request.into_inner();
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let _open = open;
            let expired = expiry.passed();
            tokio::pin!(expired);
            loop {
                // What has come is kept whole: only the wait for more is cut short.
                let message = tokio::select! {
                    message = pushes.message() => message,
                    () = &mut expired => return,
                    // It is pushed again to who comes next.
                    () = fleet.shared.left.cancelled() => return,
                };
                let push = match message {
                    Ok(Some(push)) => push,
                    Ok(None) => return,
                    Err(status) => {
                        let _ = send.send(Err(status)).await;
                        return;
                    }
                };
                let task = TaskId::from_bytes(&push.task);
                let owner = match task {
                    Some(task) => owner(&fleet, &labor, task).await,
                    None => Owner::Another,
                };
                let refused = "that task is not this labor's";
                let answer = match (task, owner) {
                    (Some(task), Owner::Itself) => keep(&logs, task, push).await,
                    (_, Owner::Unknown) => {
                        tracing::debug!(labor = %labor.id, "a log was refused of which nobody knows whose it is");
                        Err(Status::permission_denied(refused))
                    }
                    _ => {
                        tracing::warn!(labor = %labor.id, why = refused, "a log was refused");
                        Err(Status::permission_denied(refused))
                    }
                };
                let ends = answer.is_err();
                // Fails once the answers are cut off, too.
                if send.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(expiry.cut(ReceiverStream::new(receive)))))
    }
}

impl Gateway {
    async fn keep_blob(&self, mut pieces: Streaming<Piece>) -> Result<PutBlobReply, Status> {
        let first = pieces.message().await?.ok_or_else(|| Status::invalid_argument("no piece came"))?;
        let transient = first.transient;
        let whole = first.last;
        let bytes = tokio_stream::once(Ok(first.data)).chain(data_of(pieces, whole));
        let reader: Reader = Box::pin(StreamReader::new(Box::pin(bytes)));
        let info = if transient {
            self.plane.payloads().receive(reader).await
        } else {
            self.plane.blobs().put(reader, MAX_BLOB).await
        };
        let info = info.map_err(|e| blob_status(&e))?;
        Ok(PutBlobReply { digest: info.digest, size: info.size })
    }

    /// A labor may fetch what its fleet runs, and nothing else; and for how long.
    fn package<T>(&self, request: &Request<T>, release: &str) -> Result<(Arc<Package>, Expiry), Status> {
        let peer = self.peer(request)?;
        let expiry = Expiry::at(peer.not_after);
        let ours = peer.fleet.shared.releases.find(release);
        ours.map(|r| (r.package(), expiry)).ok_or_else(|| {
            Status::not_found(format!("fleet {} runs no release {release}", peer.identity.fleet))
        })
    }
}

fn positions(package: &Package, chunks: &[Bytes]) -> Result<Vec<usize>, Status> {
    let position = |chunk: &Bytes| {
        let digest = <[u8; 32]>::try_from(&chunk[..]).map(Digest).ok();
        digest
            .and_then(|d| package.position(&d))
            .ok_or_else(|| Status::not_found("a chunk is not of this release"))
    };
    chunks.iter().map(position).collect()
}

fn send_chunks(package: &Package, positions: Vec<usize>, send: &mpsc::Sender<Result<Piece, Status>>) {
    for position in positions {
        let chunk = match package.read_chunk(position) {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::error!(%error, "a release cannot be read");
                let _ = send.blocking_send(Err(Status::data_loss(error.to_string())));
                return;
            }
        };
        let digest = Bytes::copy_from_slice(&package.index().chunks[position].digest.0);
        let zstd = chunk.zstd;
        let mut data = Bytes::from(chunk.data);
        loop {
            let piece = data.split_to(data.len().min(PIECE));
            let last = data.is_empty();
            let piece = Piece { digest: digest.clone(), data: piece, last, zstd, transient: false };
            if send.blocking_send(Ok(piece)).is_err() {
                return;
            }
            if last {
                break;
            }
        }
    }
}

async fn send_blob(mut reader: Reader, send: mpsc::Sender<Result<Piece, Status>>) {
    loop {
        let mut data = Vec::with_capacity(PIECE);
        let piece = match (&mut reader).take(PIECE as u64).read_to_end(&mut data).await {
            Ok(_) => {
                let last = data.is_empty();
                Ok(Piece { data: data.into(), last, ..Piece::default() })
            }
            Err(error) => Err(Status::data_loss(error.to_string())),
        };
        let ends = piece.as_ref().map_or(true, |p| p.last);
        if send.send(piece).await.is_err() || ends {
            return;
        }
    }
}

/// The data of the pieces up to the last; a stream that ends before it is an error, so that half
/// a blob is never taken for a whole one.
fn data_of(mut pieces: Streaming<Piece>, mut done: bool) -> impl Stream<Item = std::io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        while !done {
            let message = tokio::select! {
                message = pieces.message() => message,
                // Nobody reads on: the sender is let go.
                () = send.closed() => return,
            };
            let data = match message {
                Ok(Some(piece)) => {
                    done = piece.last;
                    Ok(piece.data)
                }
                Ok(None) => {
                    Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the last piece did not come"))
                }
                Err(status) => Err(std::io::Error::other(status)),
            };
            let ends = data.is_err();
            if send.send(data).await.is_err() || ends {
                return;
            }
        }
    });
    ReceiverStream::new(receive)
}

/// Whose a log is that a labor brings.
enum Owner {
    Itself,
    Another,
    /// Such as of a call that has outlived the server that had begun it: only that one knew.
    Unknown,
}

/// Whether a task is, or was, a labor's.
async fn owner(fleet: &FleetHandle, labor: &LaborShared, task: TaskId) -> Owner {
    if labor.owns(task) {
        return Owner::Itself;
    }
    // It was given to it before this server was started, or long ago.
    let Some(tasks) = fleet.shared.tasks.get() else { return Owner::Unknown };
    match tasks.storage.get(task).await {
        Ok(record) if record.ran_on(labor.id) => {
            labor.assign(task);
            Owner::Itself
        }
        Ok(_) => Owner::Another,
        Err(_) if fleet.shared.labors.read().values().any(|other| other.owns(task)) => Owner::Another,
        Err(_) => Owner::Unknown,
    }
}

async fn keep(logs: &Arc<crate::logs::Logs>, task: TaskId, push: LogPush) -> Result<LogAck, Status> {
    let stream = LogStream { task, attempt: Attempt(push.attempt), stream: push.stream };
    let ack = LogAck { task: push.task, attempt: push.attempt, stream: stream.stream.clone(), through: 0 };
    let push = Push { offset: push.offset, data: push.data, gap: push.gap, eof: push.eof };
    match logs.push(stream, push).await {
        Ok(through) => Ok(LogAck { through, ..ack }),
        Err(error @ LogError::BadName(_)) => Err(Status::invalid_argument(error.to_string())),
        Err(error) => {
            match &error {
                // That the disk is full is said once, by the condition.
                LogError::Io { source, .. } if condition::takes_nothing(source) => {}
                error => tracing::error!(%error, "a log cannot be kept"),
            }
            Err(Status::resource_exhausted(error.to_string()))
        }
    }
}

fn blob_status(error: &BlobError) -> Status {
    match error {
        BlobError::Missing(_) => Status::not_found(error.to_string()),
        BlobError::BadDigest(_) => Status::invalid_argument(error.to_string()),
        BlobError::TooLarge { .. } => Status::out_of_range(error.to_string()),
        BlobError::Damaged(_) => Status::data_loss(error.to_string()),
        BlobError::Source { .. } => Status::aborted(error.to_string()),
        BlobError::Io { .. } => Status::resource_exhausted(error.to_string()),
    }
}
