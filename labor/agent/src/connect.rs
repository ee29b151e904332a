//! Channels to the Overseer: TLS over TCP or a unix socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use overseer_protocol::{Endpoint, error_text};
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig};

/// The name in the certificate of every Overseer, wherever it listens.
pub(crate) const SERVER_NAME: &str = "overseer";

/// Time for a TCP connection and both handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// While an answer is waited for and nothing was heard for so long, the other end is asked whether
/// it still lives: a network that swallows everything closes no connection, and the system's own
/// patience is a quarter of an hour.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Time for the answer to that; a slow line has up to a window of data to carry before it. Both
/// together are less than a full log spool holds its host back.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Receive windows. They bound what a connection may hold of the agent's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Join and Attach: small messages.
    Session,
    /// Releases, blobs, logs.
    Bulk,
}

impl Purpose {
    fn window(self) -> u32 {
        match self {
            Self::Session => 1 << 20,
            Self::Bulk => 2 << 20,
        }
    }
}

/// Whom to trust, and who we are once we have joined. Keys are in memory only.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// PEM.
    pub(crate) authorities: String,
    /// Certificate and key.
    pub(crate) identity: Option<transport::Identity>,
}

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0:?} is no endpoint: expected HOST:PORT; the bootstrap document must be written anew")]
    BadEndpoint(String),
    #[error("no connection to {endpoint}: {reason}; check that the Overseer listens there")]
    Unreachable { endpoint: String, reason: String },
    #[error(
        "the authorities or the identity are not usable: {0}; the bootstrap document must be written anew"
    )]
    Credentials(String),
}

/// Opens one connection. It is not opened again by itself: whoever holds it sees it end.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    credentials: &Credentials,
    purpose: Purpose,
) -> Result<Channel, ConnectError> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&credentials.authorities))
        .domain_name(SERVER_NAME)
        .assume_http2(true);
    if let Some(identity) = &credentials.identity {
        tls = tls.identity(identity.clone());
    }
    let name = match endpoint {
        Endpoint::Tcp(address) => address.clone(),
        Endpoint::Unix(path) => path.display().to_string(),
    };
    let uri = match endpoint {
        Endpoint::Tcp(address) => format!("https://{address}"),
        Endpoint::Unix(_) => format!("https://{SERVER_NAME}"),
    };
    let bare = transport::Endpoint::from_shared(uri)
        .map_err(|_| ConnectError::BadEndpoint(name.clone()))?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(purpose.window())
        .initial_connection_window_size(purpose.window())
        .buffer_size(16usize);
    let ready = bare.tls_config(tls).map_err(|e| ConnectError::Credentials(error_text(&e)))?;
    let dialling = async {
        match endpoint {
            Endpoint::Tcp(_) => ready.connect().await,
            Endpoint::Unix(path) => {
                let path = path.clone();
                ready.connect_with_connector(tower::service_fn(move |_| unix(path.clone()))).await
            }
        }
    };
    let unreachable = |reason| ConnectError::Unreachable { endpoint: name.clone(), reason };
    match tokio::time::timeout(CONNECT_TIMEOUT, dialling).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(error_text(&error))),
        Err(_) => Err(unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

async fn unix(path: PathBuf) -> io::Result<TokioIo<tokio::net::UnixStream>> {
    tokio::net::UnixStream::connect(path).await.map(TokioIo::new)
}
