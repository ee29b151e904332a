//! Where labors call: pairing, sessions and bulk data over TLS.

mod attach;
mod bounded;
mod bulk;
mod pace;
mod pairing;
mod peer;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use overseer_protocol::MAX_MESSAGE;
use overseer_protocol::proto::bulk_server::BulkServer;
use overseer_protocol::proto::pairing_server::PairingServer;
use overseer_protocol::proto::session_server::SessionServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use self::bounded::Bounded;
use crate::accept::{Farewell, Incoming};
use crate::authority::{Authority, ServerIdentity};
use crate::control_plane::{ControlPlane, ControlPlaneError};
use overseer_protocol::error_text;

/// A client has this long for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Flow-control windows: they bound what one labor can make the Overseer hold.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// A connection that is silent for so long is asked whether anybody is there.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// It is closed when no answer comes within this time.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// A socket over which nothing comes is closed, whatever should have come. Later than HTTP/2
/// does, which says why.
const SILENCE: Duration = Duration::from_secs(45);
/// The part of the file descriptors that connections of labors may take: a half, of each socket.
const CONNECTIONS: u64 = 2;
/// Requests that one connection has open.
const STREAMS: u32 = 64;
/// Bytes of headers in one request.
const HEADERS: u32 = 16 * 1024;
/// Largest `Join`: a claim, a signing request, facts.
const MAX_JOIN: usize = 64 * 1024;

/// Answers labors.
#[derive(Clone)]
pub(crate) struct Gateway {
    plane: ControlPlane,
}

impl Gateway {
    pub(crate) fn new(plane: ControlPlane) -> Self {
        Self { plane }
    }
}

/// Sockets that are bound and not served yet.
pub(crate) struct Listeners {
    unix: UnixListener,
    tcp: Option<TcpListener>,
}

impl Listeners {
    pub(crate) async fn bind(unix: &Path, tcp: Option<SocketAddr>) -> Result<Self, ControlPlaneError> {
        let error = |place: String| move |source| ControlPlaneError::Listen { place, source };
        // The store's lock tells that no other process owns the directory: what lies there is
        // left over from one that was killed.
        match std::fs::remove_file(unix) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(error(unix.display().to_string())(e));
            }
            _ => {}
        }
        let listener = UnixListener::bind(unix).map_err(error(unix.display().to_string()))?;
        let tcp = match tcp {
            Some(address) => Some(TcpListener::bind(address).await.map_err(error(address.to_string()))?),
            None => None,
        };
        Ok(Self { unix: listener, tcp })
    }

    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Serves until `stopped` says so.
    pub(crate) fn serve(
        self,
        gateway: Gateway,
        authority: &Authority,
        server: &ServerIdentity,
        stopped: watch::Receiver<bool>,
    ) -> Result<Vec<JoinHandle<()>>, ControlPlaneError> {
        let mut tasks = Vec::new();
        let unix = router(gateway.clone(), authority, server)?;
        let condition = gateway.plane.condition();
        let incoming = Incoming::new(self.unix, CONNECTIONS, Farewell::Silent, Arc::clone(&condition));
        let incoming = bounded(incoming, stopped.clone());
        let until = wait_for(stopped.clone());
        tasks.push(tokio::spawn(async move {
            report(unix.serve_with_incoming_shutdown(incoming, until).await);
        }));
        if let Some(listener) = self.tcp {
            let tcp = router(gateway, authority, server)?;
            let incoming = Incoming::new(listener, CONNECTIONS, Farewell::Silent, condition);
            let incoming = bounded(incoming, stopped.clone());
            tasks.push(tokio::spawn(async move {
                report(tcp.serve_with_incoming_shutdown(incoming, wait_for(stopped)).await);
            }));
        }
        Ok(tasks)
    }
}

fn bounded<S>(
    incoming: impl Stream<Item = io::Result<S>>,
    stopped: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Bounded<S>>> {
    incoming.map(move |socket| socket.map(|socket| Bounded::new(socket, SILENCE, stopped.clone())))
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // A control plane that was dropped has stopped too.
    let _ = stopped.wait_for(|s| *s).await;
}

fn report(served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        tracing::error!(%error, "the gateway has stopped");
    }
}

fn router(
    gateway: Gateway,
    authority: &Authority,
    server: &ServerIdentity,
) -> Result<Router, ControlPlaneError> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&server.certificate, server.key.expose()))
        .client_ca_root(Certificate::from_pem(authority.certificate()))
        // `Join` comes without a certificate; every other service asks for one by itself.
        .client_auth_optional(true)
        .timeout(HANDSHAKE);
    let mut server = Server::builder().tls_config(tls).map_err(|e| ControlPlaneError::Tls(error_text(&e)))?;
    server = server
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .http2_max_header_list_size(HEADERS);
    Ok(server
        .add_service(PairingServer::new(gateway.clone()).max_decoding_message_size(MAX_JOIN))
        .add_service(SessionServer::new(gateway.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(BulkServer::new(gateway).max_decoding_message_size(MAX_MESSAGE)))
}
