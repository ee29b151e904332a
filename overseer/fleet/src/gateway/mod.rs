//! Where labors call: pairing, sessions and bulk data over TLS.

mod attach;
mod bounded;
mod bulk;
mod pace;
mod pairing;
mod peer;
mod refused;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::Stream;
use overseer_protocol::MAX_MESSAGE;
use overseer_protocol::proto::bulk_server::BulkServer;
use overseer_protocol::proto::pairing_server::PairingServer;
use overseer_protocol::proto::session_server::SessionServer;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use self::bounded::Bounded;
use crate::accept::{Accepted, Farewell, Incoming};
use crate::authority::ServerIdentity;
use crate::condition::Condition;
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::door::{Allowance, Bounds, Door, Entrance, FailureLimits, Failures, Guarded, Source};
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

/// Over TCP, callers who have not shown a certificate of ours yet. A labor that joins is such a
/// caller for some milliseconds.
const STRANGERS: Bounds = Bounds { waiting: 1024, each: 512, time: Duration::from_secs(30) };
/// The same over the unix socket, which only this user can reach.
const LOCAL: Bounds = Bounds { waiting: 4096, each: 4096, time: Duration::from_secs(30) };
/// Requests that were refused and are told why.
const REFUSALS: FailureLimits = FailureLimits {
    each: Allowance { burst: 100, refill: Duration::from_secs(1) },
    all: Allowance { burst: 1000, refill: Duration::from_millis(100) },
    sources: 1024,
};

/// Answers labors.
#[derive(Clone)]
pub(crate) struct Gateway {
    plane: ControlPlane,
    failures: Arc<Mutex<Failures>>,
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

    /// Takes callers until `stopped` says so; they wait until there is somebody to answer.
    pub(crate) fn open(
        self,
        condition: &Arc<Condition>,
        stopped: &watch::Receiver<bool>,
    ) -> (Listening, Vec<JoinHandle<()>>) {
        let door = Door::new("labors.sock", LOCAL);
        let incoming = Incoming::new(self.unix, CONNECTIONS, Farewell::Silent, Arc::clone(condition));
        let incoming = incoming.map(move |socket| socket.map(|socket| door.guard(socket, Source::Here)));
        let (unix, task) = Entrance::open(bounded(incoming, stopped.clone()), stopped.clone());
        let (mut tcp, mut tasks) = (None, vec![task]);
        if let Some(listener) = self.tcp {
            let incoming = Incoming::new(listener, CONNECTIONS, Farewell::Silent, Arc::clone(condition));
            let door = Door::new("listen", STRANGERS.within(incoming.most()));
            let incoming = incoming.map(move |socket| socket.map(|socket| door.guard_remote(socket)));
            let (entrance, task) = Entrance::open(bounded(incoming, stopped.clone()), stopped.clone());
            tcp = Some(entrance);
            tasks.push(task);
        }
        let failures = Arc::new(Mutex::new(Failures::new(REFUSALS, Instant::now())));
        (Listening { unix, tcp, failures, stopped: stopped.clone() }, tasks)
    }
}

/// Sockets that are served.
pub(crate) struct Listening {
    unix: Entrance<Bounded<Guarded<Accepted<UnixStream>>>>,
    tcp: Option<Entrance<Bounded<Guarded<Accepted<TcpStream>>>>>,
    /// Counted on over a change of the certificate.
    failures: Arc<Mutex<Failures>>,
    stopped: watch::Receiver<bool>,
}

impl Listening {
    /// Who connects from now on sees this certificate, and may show one of these authorities
    /// (PEM). Connections that are open go on as they are.
    pub(crate) fn give(
        &self,
        plane: ControlPlane,
        authorities: &str,
        server: &ServerIdentity,
    ) -> Result<Vec<JoinHandle<()>>, ControlPlaneError> {
        let gateway = Gateway { plane, failures: Arc::clone(&self.failures) };
        let unix = router(gateway.clone(), authorities, server)?;
        let tcp = router(gateway, authorities, server)?;
        let (sockets, until) = (self.unix.sockets(), wait_for(self.stopped.clone()));
        let mut tasks = vec![tokio::spawn(async move {
            report(unix.serve_with_incoming_shutdown(sockets, until).await);
        })];
        if let Some(entrance) = &self.tcp {
            let (sockets, until) = (entrance.sockets(), wait_for(self.stopped.clone()));
            tasks.push(tokio::spawn(async move {
                report(tcp.serve_with_incoming_shutdown(sockets, until).await);
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

fn router(gateway: Gateway, authorities: &str, server: &ServerIdentity) -> Result<Router, ControlPlaneError> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&server.certificate, server.key.expose()))
        .client_ca_root(Certificate::from_pem(authorities))
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
