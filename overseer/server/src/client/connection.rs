//! The way to the server: its socket, or TCP with TLS and a token.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use overseer::accept::REFUSAL;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Certificate, ClientTlsConfig, Endpoint, Uri};
use tower::service_fn;

use super::Common;
use super::bearer::Bearer;
use crate::api::status::full;
use crate::failure::Failure;
use crate::serve::configured;

/// A connection whose requests carry the token, where one is needed.
pub(super) type Channel = InterceptedService<transport::Channel, Bearer>;

/// Longest wait for a TCP connection and its handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// Whether the server is still there is asked so often.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Largest file of certificates.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Connects to the server that is named, or to the first that is found.
///
/// # Errors
/// `server.not_found`, with all places that were looked at; `server.forbidden`, `server.address`, `server.ca`,
/// `server.token`, `server.connection`.
pub(super) async fn connect(common: &Common) -> Result<Channel, Failure> {
    match common.server.as_deref() {
        None => at_socket(configured::sockets()).await,
        Some(server) => match address(server)? {
            Address::Socket(path) => at_socket(vec![path]).await,
            Address::Tcp(uri) => over_tcp(uri, common).await,
        },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    Tcp(Uri),
}

/// What `--server` means: `https://HOST:PORT`, or else a path.
fn address(server: &OsStr) -> Result<Address, Failure> {
    let Some(text) = server.to_str().filter(|text| text.contains("://")) else {
        return Ok(Address::Socket(server.into()));
    };
    let wrong = |why: &str| {
        Failure::input("server.address", format!("{text} is no address of a server: {why}"))
            .help("give https://HOST:PORT, as `control` in [server] has it, or the path of a socket")
    };
    let uri: Uri = text.parse().map_err(|_| wrong("it cannot be read"))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("a token is sent over TLS only"));
    }
    if uri.port_u16().is_none() {
        return Err(wrong("it has no port"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("it has a user in it, and tokens do not belong there"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("nothing may follow the port"));
    }
    Ok(Address::Tcp(uri))
}

async fn over_tcp(uri: Uri, common: &Common) -> Result<Channel, Failure> {
    let authority = authority(common.server_ca.as_deref())?;
    let bearer = Bearer::find(common.token_file.as_deref())?;
    // Brackets are of the address, not of the name.
    let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name(name);
    let failed = |error: transport::Error| {
        let text = overseer_protocol::error_text(&error);
        Failure::input("server.connection", format!("the connection to {uri} failed: {text}")).help(
            "check address and port; the certificate must be signed by --server-ca \
             (`overseer token ca` on the server) and have the name of --server (`control_names`)",
        )
    };
    let endpoint = Endpoint::from(uri.clone()).tls_config(tls).map_err(&failed)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let channel = tokio::time::timeout(CONNECT, endpoint.connect()).await;
    let channel = channel.map_err(|_| {
        Failure::fault("server.connection", format!("no answer from {uri} within {CONNECT:?}"))
            .help("check address and port, and whether something in between lets it through")
    })?;
    Ok(InterceptedService::new(channel.map_err(&failed)?, bearer))
}

fn authority(file: Option<&Path>) -> Result<Certificate, Failure> {
    let Some(file) = file else {
        return Err(Failure::input("server.ca", "whom to trust over TCP is not said")
            .help("give --server-ca FILE; `overseer token ca` on the server prints what belongs in it"));
    };
    let unusable = |why: String| {
        Failure::input("server.ca", format!("{} cannot be used: {why}", file.display()))
            .help("give a PEM file; `overseer token ca` on the server prints what belongs in it")
    };
    let size = std::fs::metadata(file).map_err(|error| unusable(error.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(unusable("it is too large".into()));
    }
    let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
    if !String::from_utf8_lossy(&pem).contains("BEGIN CERTIFICATE") {
        return Err(unusable("there is no certificate in it".into()));
    }
    Ok(Certificate::from_pem(pem))
}

async fn at_socket(places: Vec<PathBuf>) -> Result<Channel, Failure> {
    let (mut looked_at, mut forbidden) = (Vec::new(), None);
    for path in places {
        match UnixStream::connect(&path).await {
            Ok(stream) => return channel(path, stream).await,
            Err(error) => {
                looked_at.push(format!("{} ({})", path.display(), why(&error)));
                if error.kind() == io::ErrorKind::PermissionDenied {
                    forbidden.get_or_insert(path);
                }
            }
        }
    }
    if let Some(path) = forbidden {
        let message = format!("the socket {} is not for this user", path.display());
        return Err(Failure::input("server.forbidden", message).help(
            "run this as the user of the server, or ask over TCP with a token (`overseer token new`)",
        ));
    }
    let message = format!("no server was found; looked at {}", looked_at.join(", "));
    Err(Failure::input("server.not_found", message)
        .help("start one with `overseer serve`, or name it with --server or OVERSEER_SERVER"))
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "not there".into(),
        io::ErrorKind::ConnectionRefused => "nobody listens".into(),
        io::ErrorKind::PermissionDenied => "not allowed".into(),
        _ => error.to_string(),
    }
}

/// Speaks over a connection that is open already; over new ones should it break.
async fn channel(path: PathBuf, stream: UnixStream) -> Result<Channel, Failure> {
    let first = std::sync::Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_| {
        let (first, path) = (first.lock().take(), path.clone());
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(path).await.map(TokioIo::new),
            }
        }
    });
    // The name is of no use: a socket is where it is.
    let endpoint = Endpoint::from_static("http://overseer");
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        let text = overseer_protocol::error_text(&error);
        if text.contains(REFUSAL) {
            return full();
        }
        Failure::fault("server.connection", format!("the server could not be asked: {text}"))
    })?;
    Ok(InterceptedService::new(channel, Bearer::none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_https_with_a_port() {
        let of = |text: &str| address(OsStr::new(text));
        assert_eq!(of("/run/o.sock").unwrap(), Address::Socket("/run/o.sock".into()));
        assert_eq!(of("o.sock").unwrap(), Address::Socket("o.sock".into()));
        for good in ["https://o.example:7401", "https://10.0.0.1:1/", "https://[::1]:7401"] {
            assert!(matches!(of(good).unwrap(), Address::Tcp(_)), "{good}");
        }
        for bad in [
            "http://o.example:7401",
            "https://o.example",
            "https://a@o.example:1",
            "https://o.example:1/x",
            "https://o.example:1/?x",
            "tcp://1:2",
            "https://",
        ] {
            assert_eq!(of(bad).unwrap_err().code, "server.address", "{bad}");
        }
    }
}
