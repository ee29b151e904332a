//! The control API over TCP: TLS always, and only so many who have not shown a token.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overseer::ControlPlane;
use overseer::accept::{Accepted, Farewell, Incoming};
use overseer::condition::Condition;
use overseer::door::{Bounds, Door, Entrance, Guarded};
use overseer_protocol::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::transport::server::Server as Transport;
use tonic::transport::{Identity, ServerTlsConfig};

use crate::api::CONNECTIONS;
use crate::config::{IdentityFiles, ServerConfig};
use crate::exit::Exit;
use crate::failure::Failure;

/// Connections that have not shown a good token.
const STRANGERS: Bounds = Bounds { waiting: 256, each: 64, time: Duration::from_secs(10) };
/// A client has this long for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest certificate or key file.
const MOST_BYTES: u64 = 256 * 1024;

/// A bound address, and what its callers are shown.
pub(crate) struct ControlTcp {
    listener: TcpListener,
    shown: Shown,
}

/// Certificates for the callers.
pub(crate) enum Shown {
    /// Of somebody's own authority.
    Files(Identity),
    /// Of the Overseer's: made when they are needed.
    Own { config: Box<ServerConfig>, address: SocketAddr, plane: ControlPlane },
}

impl Shown {
    /// What TLS needs now.
    ///
    /// # Errors
    /// `authority.…`
    pub(crate) fn tls(&self) -> Result<ServerTlsConfig, Failure> {
        let identity = match self {
            Self::Files(identity) => identity.clone(),
            Self::Own { config, address, plane } => own(config, *address, plane)?,
        };
        Ok(ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE))
    }

    /// Waits until [`Shown::tls`] gives something else.
    pub(crate) async fn changed(&self, seen: &mut watch::Receiver<u64>) {
        match self {
            Self::Own { .. } if seen.changed().await.is_ok() => {}
            // Read once; or there will be no other one.
            _ => std::future::pending().await,
        }
    }
}

impl ControlTcp {
    /// Listens where the configuration says, if it does.
    ///
    /// # Errors
    /// `serve.control`, `serve.control_certificate`, `authority.…`.
    pub(super) async fn bind(config: &ServerConfig, plane: &ControlPlane) -> Result<Option<Self>, Failure> {
        let Some(address) = config.control else { return Ok(None) };
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::fault("serve.control", format!("{address} cannot be listened on: {error}"))
                .help("choose another `control` in [server], or stop who listens there")
        })?;
        let shown = match &config.control_identity {
            Some(files) => Shown::Files(identity(files)?),
            None => {
                // A name that cannot be is said at the start.
                own(config, address, plane)?;
                Shown::Own { config: Box::new(config.clone()), address, plane: plane.clone() }
            }
        };
        Ok(Some(Self { listener, shown }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// What callers are shown, and those who come, until `stopped` says so.
    pub(crate) fn open(
        self,
        condition: Arc<Condition>,
        stopped: watch::Receiver<bool>,
    ) -> (Shown, Entrance<Guarded<Accepted<TcpStream>>>) {
        let incoming = Incoming::new(self.listener, CONNECTIONS, Farewell::Silent, condition);
        let door = Door::new("control", STRANGERS.within(incoming.most()));
        let incoming = incoming.map(move |socket| socket.map(|socket| door.guard_remote(socket)));
        // It ends by `stopped`.
        let (entrance, _task) = Entrance::open(incoming, stopped);
        (self.shown, entrance)
    }
}

/// A certificate of the Overseer's own authority, for the names that clients may use.
fn own(config: &ServerConfig, address: SocketAddr, plane: &ControlPlane) -> Result<Identity, Failure> {
    let names = names(address.ip(), &config.control_names, host_name());
    let identity = plane.server_identity(&names).map_err(|error| {
        Failure::told(Exit::BadInput, error.code(), &error.to_string())
            .or_help("check `control_names` in [server]")
    })?;
    Ok(Identity::from_pem(&identity.certificate, identity.key.expose()))
}

/// The names of the configuration; the address, or where it is every address, this machine's name;
/// and what this machine calls itself.
fn names(address: IpAddr, configured: &[String], host: Option<String>) -> Vec<String> {
    let mut names = configured.to_vec();
    if !address.is_unspecified() {
        names.push(address.to_string());
    } else {
        names.extend(host);
    }
    if address.is_unspecified() || address.is_loopback() {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    names
}

fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    // One that no certificate can carry is of no use.
    (!name.is_empty() && name.len() <= 253 && name.chars().all(good)).then_some(name)
}

/// A certificate and its key, which TLS takes together.
///
/// # Errors
/// `serve.control_certificate`.
pub(super) fn identity(files: &IdentityFiles) -> Result<Identity, Failure> {
    let identity = read(&files.certificate, &files.key)?;
    let tls = ServerTlsConfig::new().identity(identity.clone());
    Transport::builder().tls_config(tls).map_err(|error| {
        let why = format!("with {}: {}", files.key.display(), overseer_protocol::error_text(&error));
        unusable(&files.certificate, &why)
    })?;
    Ok(identity)
}

fn read(certificate: &Path, key: &Path) -> Result<Identity, Failure> {
    let found = std::fs::metadata(key).map_err(|error| unusable(key, &error.to_string()))?;
    if found.mode() & 0o077 != 0 {
        let why = format!("others may read it (mode {:03o})", found.mode() & 0o777);
        return Err(unusable(key, &why).help(format!("run `chmod 600 {}`", key.display())));
    }
    let (pem, key_pem) = (text(certificate)?, Secret::new(text(key)?));
    if !pem.contains("BEGIN CERTIFICATE") {
        return Err(unusable(certificate, "there is no certificate in it"));
    }
    if !key_pem.expose().contains("PRIVATE KEY") {
        return Err(unusable(key, "there is no private key in it"));
    }
    Ok(Identity::from_pem(pem, key_pem.expose()))
}

fn text(path: &Path) -> Result<String, Failure> {
    let size = std::fs::metadata(path).map_err(|error| unusable(path, &error.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(unusable(path, "it is too large for a PEM file"));
    }
    std::fs::read_to_string(path).map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::input("serve.control_certificate", format!("{} cannot be used: {why}", path.display()))
        .help("check `control_cert` and `control_key` in [server]: PEM files, the certificate with its chain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_has_the_names_that_clients_use() {
        let of = |address: &str| names(address.parse().unwrap(), &["o.example".into()], Some("box".into()));
        assert_eq!(of("10.0.0.1"), ["o.example", "10.0.0.1"]);
        assert_eq!(of("0.0.0.0"), ["o.example", "box", "localhost", "127.0.0.1", "::1"]);
        assert!(of("127.0.0.1").contains(&"localhost".to_owned()));
    }
}
