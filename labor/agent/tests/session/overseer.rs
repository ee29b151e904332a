use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overseer_protocol::proto::{self, Order, Report, ToLabor, order, report};
use overseer_protocol::{
    Bootstrap, Claim, Endpoint, Generation, Identity, LaborId, MAX_MESSAGE, OnLeaseLost, Secret,
};
use overseer_release::Package;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Server, ServerTlsConfig};

use crate::services::Services;

/// Longer than anything here takes, even on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
pub const TOKEN: &str = "5ec3e7";

/// What the Overseer saw, in order.
#[derive(Debug)]
pub enum Seen {
    Joined(proto::JoinRequest),
    Attached(u64, proto::Hello),
    Reported(u64, report::Kind),
    Renewed,
    Detached,
    Index,
    /// So many.
    Chunks(usize),
}

/// What it does; tests change it as they go.
pub struct Script {
    pub join: Option<Status>,
    pub attach: Option<Status>,
    pub version: u32,
    pub heartbeat_ms: u32,
    pub lease_ms: u64,
    pub answers_heartbeats: bool,
    pub acknowledges_telemetry: bool,
    /// The next push of logs breaks their stream.
    pub breaks_logs: bool,
    /// Of the certificates, in seconds.
    pub life: u64,
    pub package: Option<Package>,
    /// Changes a chunk on its way.
    pub damages_chunks: bool,
    /// Breaks a stream of chunks after so many pieces, once for each number, the last one first.
    pub breaks_chunks: Vec<usize>,
    pub blobs: HashMap<String, Bytes>,
}

pub struct Shared {
    pub script: Mutex<Script>,
    pub sessions: Mutex<Sessions>,
    pub seen: mpsc::UnboundedSender<Seen>,
    pub logs: mpsc::UnboundedSender<proto::LogPush>,
    /// Whether logs are read.
    pub reads_logs: watch::Sender<bool>,
    pub authority: Issuer<'static, KeyPair>,
    pub authority_pem: String,
}

#[derive(Default)]
pub struct Sessions {
    pub last: u64,
    pub orders: HashMap<u64, mpsc::UnboundedSender<Result<ToLabor, Status>>>,
}

pub struct Overseer {
    pub shared: Arc<Shared>,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    /// Apart, for they come whenever they like.
    pub logs: mpsc::UnboundedReceiver<proto::LogPush>,
    pub endpoint: Endpoint,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Overseer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn labor() -> LaborId {
    LaborId::new(1_700_000_000_000, 7)
}

pub fn identity() -> Identity {
    Identity { fleet: "farm".parse().unwrap(), labor: labor(), generation: Generation(3) }
}

impl Overseer {
    pub async fn on_tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        Self::serve(endpoint, |router| {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() })
        })
    }

    pub async fn on_unix(directory: &Path) -> Self {
        let path: PathBuf = directory.join("overseer.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self::serve(Endpoint::Unix(path), |router| {
            let incoming = UnixListenerStream::new(listener);
            tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() })
        })
    }

    fn serve(
        endpoint: Endpoint,
        start: impl FnOnce(tonic::transport::server::Router) -> tokio::task::JoinHandle<()>,
    ) -> Self {
        let (seen_sender, seen) = mpsc::unbounded_channel();
        let (logs_sender, logs) = mpsc::unbounded_channel();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority_pem = params.self_signed(&key).unwrap().pem();
        let authority = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["overseer".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(certificate.pem(), key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(&authority_pem))
            .client_auth_optional(true);
        let script = Script {
            join: None,
            attach: None,
            version: 1,
            heartbeat_ms: 200,
            lease_ms: 60_000,
            answers_heartbeats: true,
            acknowledges_telemetry: true,
            breaks_logs: false,
            life: 3600,
            package: None,
            damages_chunks: false,
            breaks_chunks: Vec::new(),
            blobs: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            sessions: Mutex::default(),
            seen: seen_sender,
            logs: logs_sender,
            reads_logs: watch::Sender::new(true),
            authority,
            authority_pem,
        });
        let services = Services(shared.clone());
        let bulk = proto::bulk_server::BulkServer::new(services.clone());
        let router = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(proto::pairing_server::PairingServer::new(services.clone()))
            .add_service(
                proto::session_server::SessionServer::new(services).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(bulk.max_decoding_message_size(MAX_MESSAGE));
        let server = start(router);
        Self { shared, seen, logs, endpoint, server }
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock());
    }

    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            format: Bootstrap::FORMAT,
            fleet: identity().fleet,
            endpoints: vec![self.endpoint.clone()],
            authorities: self.shared.authority_pem.clone(),
            release_keys: vec![],
            claim: Claim::Labor {
                labor: labor(),
                generation: Generation(3),
                token: Secret::new(TOKEN.into()),
            },
            lease_ms: 60_000,
            owner: None,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: true,
            directory: None,
            cache: Default::default(),
            isolation: Default::default(),
            environment: Default::default(),
        }
    }

    /// Waits for something, passing over everything before it.
    pub async fn until<T>(&mut self, wanted: impl FnMut(Seen) -> Option<T>) -> T {
        let mut wanted = wanted;
        let searching = async {
            loop {
                let seen = self.seen.recv().await.expect("the Overseer is up");
                if let Some(found) = wanted(seen) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LONG, searching).await.expect("the agent did not do it in time")
    }

    pub async fn attached(&mut self) -> (u64, proto::Hello) {
        self.until(|seen| match seen {
            Seen::Attached(session, hello) => Some((session, hello)),
            _ => None,
        })
        .await
    }

    /// Waits for a report of a kind.
    pub async fn report<T>(&mut self, mut wanted: impl FnMut(report::Kind) -> Option<T>) -> T {
        self.until(|seen| match seen {
            Seen::Reported(_, kind) => wanted(kind),
            _ => None,
        })
        .await
    }

    /// Waits until the agent has taken note of its session.
    pub async fn beats(&mut self) {
        self.report(|kind| matches!(kind, report::Kind::Heartbeat(_)).then_some(())).await;
    }

    /// Sends an order over the newest session.
    pub fn order(&self, kind: order::Kind) {
        self.orders(vec![kind]);
    }

    pub fn orders(&self, kinds: Vec<order::Kind>) {
        let orders = kinds.into_iter().map(|kind| Order { kind: Some(kind) }).collect();
        let sessions = self.shared.sessions.lock();
        let session = &sessions.orders[&sessions.last];
        session.send(Ok(ToLabor { orders })).unwrap();
    }

    /// Ends the newest session.
    pub fn drop_session(&self) {
        let mut sessions = self.shared.sessions.lock();
        let last = sessions.last;
        sessions.orders.remove(&last);
    }
}

impl Shared {
    pub fn issue(&self, csr: &[u8]) -> proto::Identity {
        let life = self.script.lock().life;
        let mut csr = rcgen::CertificateSigningRequestParams::from_der(&csr.to_vec().into()).unwrap();
        let now = std::time::SystemTime::now();
        csr.params.not_before = now.into();
        csr.params.not_after = (now + Duration::from_secs(life)).into();
        csr.params.subject_alt_names = vec![SanType::URI(identity().to_uri().try_into().unwrap())];
        let certificate = csr.signed_by(&self.authority).unwrap();
        let epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        proto::Identity {
            certificate: certificate.pem(),
            authorities: self.authority_pem.clone(),
            not_after: epoch + life,
        }
    }
}

/// The reports of a message.
pub fn kinds(reports: Vec<Report>) -> impl Iterator<Item = report::Kind> {
    reports.into_iter().filter_map(|r| r.kind)
}
