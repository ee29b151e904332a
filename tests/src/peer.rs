//! The other end of the gateway, spoken by hand: what a node may say, and what it must not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use overseer::authority::Authority;
use overseer::{ControlPlane, Facts, HostId};
use overseer_protocol::proto::bulk_client::BulkClient;
use overseer_protocol::proto::pairing_client::PairingClient;
use overseer_protocol::proto::session_client::SessionClient;
use overseer_protocol::proto::{self, Hello, JoinRequest, Report, ToOverseer, report};
use overseer_protocol::{Bootstrap, Claim, Endpoint, Identity, PROTOCOL};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

/// A key and its signing request.
pub struct Keys {
    /// PKCS#8 in PEM.
    pub key: String,
    /// PKCS#10 in DER.
    pub request: Vec<u8>,
}

impl Keys {
    /// New ones.
    pub fn generate() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        Self { key: key.serialize_pem(), request: request.der().to_vec() }
    }

    /// With this certificate, what TLS shows.
    pub fn identity(&self, certificate: &str) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(certificate, &self.key)
    }

    /// With a certificate for `identity` that this authority issues for so long.
    pub fn issued(
        &self,
        authority: &Authority,
        identity: &Identity,
        ttl: Duration,
    ) -> tonic::transport::Identity {
        self.identity(&self.certificate(authority, identity, ttl))
    }

    /// That certificate, in PEM.
    pub fn certificate(&self, authority: &Authority, identity: &Identity, ttl: Duration) -> String {
        authority.issue(&self.request, identity, ttl, SystemTime::now()).unwrap().certificate
    }
}

/// The authority of a control plane, as one has it who can read its store.
pub async fn authority_of(plane: &ControlPlane) -> Arc<Authority> {
    Authority::load_or_create(plane.store(), SystemTime::now()).await.unwrap()
}

/// One connection to the gateway; a handshake that is refused shows with the first request.
pub async fn dial(
    endpoint: &Endpoint,
    authorities: &str,
    identity: Option<tonic::transport::Identity>,
) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authorities))
        .domain_name("overseer")
        .assume_http2(true);
    let tls = match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    };
    let uri = match endpoint {
        Endpoint::Tcp(address) => format!("https://{address}"),
        Endpoint::Unix(_) => "https://overseer".into(),
    };
    let dialled = Channel::from_shared(uri).unwrap().tls_config(tls)?;
    match endpoint {
        Endpoint::Tcp(_) => dialled.connect().await,
        Endpoint::Unix(path) => {
            let path = path.clone();
            let connect = move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            };
            dialled.connect_with_connector(tower::service_fn(connect)).await
        }
    }
}

/// As [`dial`], where it must work.
pub async fn reach(document: &Bootstrap, identity: Option<tonic::transport::Identity>) -> Channel {
    dial(&document.endpoints[0], &document.authorities, identity).await.unwrap()
}

/// Facts of a machine that is not there.
pub fn facts() -> Vec<u8> {
    let facts = Facts {
        host: HostId::derive("no machine", "never booted"),
        hostname: "nowhere".into(),
        arch: "x86_64".into(),
        target: "x86_64-unknown-linux-gnu".into(),
        kernel: "6.0".into(),
        cores: 1,
        memory: 1 << 30,
        disk_free: 1 << 30,
        agent_version: "0.1.0".into(),
        pid: 1,
    };
    serde_json::to_vec(&facts).unwrap()
}

/// A good `Join` for this claim.
pub fn join_request(claim: &Claim, keys: &Keys) -> JoinRequest {
    JoinRequest {
        versions: Some(PROTOCOL.into()),
        agent_version: "0.1.0".into(),
        claim: serde_json::to_vec(claim).unwrap().into(),
        csr: keys.request.clone().into(),
        facts: facts().into(),
    }
}

/// Joins over a connection without a certificate.
pub async fn join(document: &Bootstrap, request: JoinRequest) -> Result<proto::JoinResponse, tonic::Status> {
    let mut client = PairingClient::new(reach(document, None).await);
    client.join(request).await.map(tonic::Response::into_inner)
}

/// A good first report.
pub fn hello() -> Report {
    let hello = Hello {
        versions: Some(PROTOCOL.into()),
        agent_version: "0.1.0".into(),
        facts: facts().into(),
        ..Hello::default()
    };
    Report { kind: Some(report::Kind::Hello(hello)) }
}

/// Opens `Attach`, says these reports in one message, and stays open for as long as the sender
/// that is returned lives.
pub async fn attach(
    channel: &Channel,
    reports: Vec<Report>,
) -> Result<(tokio::sync::mpsc::Sender<ToOverseer>, tonic::Streaming<proto::ToLabor>), tonic::Status> {
    let (send, receive) = tokio::sync::mpsc::channel(8);
    send.send(ToOverseer { reports }).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let orders = SessionClient::new(channel.clone()).attach(stream).await?.into_inner();
    Ok((send, orders))
}

/// The bulk service over this connection.
pub fn bulk(channel: &Channel) -> BulkClient<Channel> {
    BulkClient::new(channel.clone())
}

/// The session service over this connection.
pub fn session(channel: &Channel) -> SessionClient<Channel> {
    SessionClient::new(channel.clone())
}
