use std::pin::Pin;
use std::sync::Arc;

use overseer_protocol::proto::bulk_server::Bulk;
use overseer_protocol::proto::pairing_server::Pairing;
use overseer_protocol::proto::session_server::Session;
use overseer_protocol::proto::{self, Order, Piece, ToLabor, ToOverseer, order, report};
use overseer_protocol::{Claim, PIECE, PROTOCOL};
use overseer_release::Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Response, Status, Streaming};

use crate::overseer::{Seen, Shared, TOKEN, kinds};

/// All three services of the scripted Overseer.
#[derive(Clone)]
pub struct Services(pub Arc<Shared>);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn certified<T>(request: &Request<T>) -> Result<(), Status> {
    // Tonic's own `peer_certs` knows TCP only.
    let over_unix = request.extensions().get::<TlsConnectInfo<UdsConnectInfo>>();
    match request.peer_certs().or_else(|| over_unix?.peer_certs()) {
        Some(certificates) if !certificates.is_empty() => Ok(()),
        _ => Err(Status::unauthenticated("no client certificate")),
    }
}

#[tonic::async_trait]
impl Pairing for Services {
    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Response<proto::JoinResponse>, Status> {
        let request = request.into_inner();
        if let Some(status) = self.0.script.lock().join.clone() {
            return Err(status);
        }
        PROTOCOL.agree(request.versions).map_err(Status::failed_precondition)?;
        let claim: Claim = serde_json::from_slice(&request.claim).unwrap();
        match claim {
            Claim::Labor { token, .. } if token.expose() == TOKEN => {}
            _ => return Err(Status::unauthenticated("unknown claim")),
        }
        let identity = self.0.issue(&request.csr);
        self.0.seen.send(Seen::Joined(request)).unwrap();
        Ok(Response::new(proto::JoinResponse { version: 1, identity: Some(identity) }))
    }
}

#[tonic::async_trait]
impl Session for Services {
    type AttachStream = Out<ToLabor>;

    async fn attach(
        &self,
        request: Request<Streaming<ToOverseer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        certified(&request)?;
        let shared = self.0.clone();
        let mut reports = request.into_inner();
        let first = reports.message().await?.unwrap();
        let Some(report::Kind::Hello(hello)) = kinds(first.reports).next() else {
            return Err(Status::invalid_argument("the first report is no hello"));
        };
        if let Some(status) = shared.script.lock().attach.clone() {
            return Err(status);
        }
        let (tx, rx) = mpsc::unbounded_channel();
        let number = {
            let mut sessions = shared.sessions.lock();
            sessions.last += 1;
            let last = sessions.last;
            sessions.orders.insert(last, tx.clone());
            last
        };
        let welcome = {
            let script = shared.script.lock();
            proto::Welcome {
                version: script.version,
                session: number,
                heartbeat_ms: script.heartbeat_ms,
                lease_ms: script.lease_ms,
                task_prefix: 77,
                spin_us: 0,
            }
        };
        let order = |kind| Ok(ToLabor { orders: vec![Order { kind: Some(kind) }] });
        tx.send(order(order::Kind::Welcome(welcome))).unwrap();
        let weak = tx.downgrade();
        drop(tx);
        let _ = shared.seen.send(Seen::Attached(number, hello));
        tokio::spawn(async move {
            while let Ok(Some(message)) = reports.message().await {
                for kind in kinds(message.reports) {
                    let (beats, acks, lease_ms) = {
                        let script = shared.script.lock();
                        (script.answers_heartbeats, script.acknowledges_telemetry, script.lease_ms)
                    };
                    let answer = match &kind {
                        report::Kind::Heartbeat(beat) if beats => {
                            Some(order::Kind::Lease(proto::Lease { seq: beat.seq, lease_ms }))
                        }
                        report::Kind::Telemetry(t) if acks => {
                            let through = t.first_seq + u64::from(t.count);
                            Some(order::Kind::TelemetryAck(proto::TelemetryAck { through }))
                        }
                        _ => None,
                    };
                    if let (Some(answer), Some(tx)) = (answer, weak.upgrade()) {
                        let _ = tx.send(order(answer));
                    }
                    let _ = shared.seen.send(Seen::Reported(number, kind));
                }
            }
            shared.sessions.lock().orders.remove(&number);
            let _ = shared.seen.send(Seen::Detached);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(rx))))
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::Identity>, Status> {
        certified(&request)?;
        let identity = self.0.issue(&request.into_inner().csr);
        self.0.seen.send(Seen::Renewed).unwrap();
        Ok(Response::new(identity))
    }
}

#[tonic::async_trait]
impl Bulk for Services {
    type FetchChunksStream = Out<Piece>;
    type FetchBlobStream = Out<Piece>;
    type PushLogsStream = Out<proto::LogAck>;

    async fn release_index(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseIndexReply>, Status> {
        certified(&request)?;
        self.0.seen.send(Seen::Index).unwrap();
        let script = self.0.script.lock();
        let package = script.package.as_ref().ok_or_else(|| Status::not_found("no such release"))?;
        let signatures = package
            .signatures()
            .iter()
            .map(|s| proto::Signature { key: s.key.to_vec().into(), signature: s.signature.to_vec().into() });
        let (index, signatures) = (package.index_bytes().to_vec().into(), signatures.collect());
        Ok(Response::new(proto::ReleaseIndexReply { index, signatures }))
    }

    async fn fetch_chunks(
        &self,
        request: Request<proto::FetchChunksRequest>,
    ) -> Result<Response<Self::FetchChunksStream>, Status> {
        certified(&request)?;
        self.0.seen.send(Seen::Chunks(request.get_ref().chunks.len())).unwrap();
        let mut script = self.0.script.lock();
        let breaks = script.breaks_chunks.pop();
        let package = script.package.as_ref().ok_or_else(|| Status::not_found("no such release"))?;
        let mut pieces = Vec::new();
        for digest in &request.into_inner().chunks {
            let position = package.position(&Digest(digest[..].try_into().unwrap())).unwrap();
            let mut chunk = package.read_chunk(position).unwrap();
            if script.damages_chunks {
                let middle = chunk.data.len() / 2;
                chunk.data[middle] ^= 1;
            }
            let parts: Vec<&[u8]> = chunk.data.chunks(100_000).collect();
            for (index, part) in parts.iter().enumerate() {
                pieces.push(Ok(Piece {
                    digest: digest.clone(),
                    data: part.to_vec().into(),
                    last: index + 1 == parts.len(),
                    zstd: chunk.zstd,
                    ..Piece::default()
                }));
            }
        }
        if let Some(after) = breaks {
            pieces.truncate(after);
            pieces.push(Err(Status::unavailable("the line is cut")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn fetch_blob(
        &self,
        request: Request<proto::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        certified(&request)?;
        let digest = request.into_inner().digest;
        let blob = self.0.script.lock().blobs.get(&digest).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        let pieces: Vec<_> = blob
            .chunks(PIECE)
            .map(|data| Ok(Piece { data: data.to_vec().into(), ..Piece::default() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<Piece>>,
    ) -> Result<Response<proto::PutBlobReply>, Status> {
        certified(&request)?;
        let mut pieces = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            bytes.extend_from_slice(&piece.data);
            if piece.last {
                let digest = blake3::hash(&bytes).to_hex().to_string();
                let size = bytes.len() as u64;
                self.0.script.lock().blobs.insert(digest.clone(), bytes.into());
                return Ok(Response::new(proto::PutBlobReply { digest, size }));
            }
        }
        Err(Status::data_loss("the last piece did not come"))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<proto::LogPush>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        certified(&request)?;
        let shared = self.0.clone();
        let mut pushes = request.into_inner();
        let mut reads = shared.reads_logs.subscribe();
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(async move {
            while reads.wait_for(|reads| *reads).await.is_ok() {
                let Ok(Some(push)) = pushes.message().await else { return };
                if std::mem::take(&mut shared.script.lock().breaks_logs) {
                    return;
                }
                let len = if push.gap > 0 { push.gap } else { push.data.len() as u64 };
                let ack = proto::LogAck {
                    task: push.task.clone(),
                    attempt: push.attempt,
                    stream: push.stream.clone(),
                    through: push.offset + len,
                };
                let _ = shared.logs.send(push);
                if tx.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}
