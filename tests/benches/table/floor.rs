//! The floor: tonic alone, over the same mutual TLS, to an echo in another process.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use overseer::BoxError;
use overseer::authority::{Authority, SERVER_NAME};
use overseer_protocol::proto::session_client::SessionClient;
use overseer_protocol::{Generation, Identity, LaborId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, Command};
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::bench::Bench;

const LIFE: Duration = Duration::from_secs(3600);

/// An echo that runs, and clients of it.
pub(crate) struct Floor {
    pub(crate) unix: SessionClient<Channel>,
    pub(crate) tcp: SessionClient<Channel>,
    child: Child,
    input: ChildStdin,
}

impl Floor {
    pub(crate) async fn start(bench: &Bench) -> Result<Self, BoxError> {
        let now = SystemTime::now();
        let authority = Authority::load_or_create(bench.plane.store(), now).await?;
        let server = authority.server_identity(&[], LIFE, now)?;
        let socket = bench.directory().join("floor.sock");
        let spec = serde_json::json!({
            "authority": authority.certificate(),
            "certificate": server.certificate,
            "key": server.key.expose(),
            "socket": socket,
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench_peer"))
            .arg("floor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut input = child.stdin.take().ok_or("no input")?;
        input.write_all(format!("{spec}\n").as_bytes()).await?;
        let output = child.stdout.take().ok_or("no output")?;
        let address = BufReader::new(output).lines().next_line().await?.ok_or("the floor did not start")?;

        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let request = rcgen::CertificateParams::default().serialize_request(&key)?;
        let identity =
            Identity { fleet: "floor".parse()?, labor: LaborId::new(1, 1), generation: Generation::FIRST };
        let issued = authority.issue(request.der(), &identity, LIFE, now)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.certificate()))
            .identity(transport::Identity::from_pem(issued.certificate, key.serialize_pem()))
            .domain_name(SERVER_NAME);
        // As an agent dials.
        let endpoint = |uri: String| -> Result<Endpoint, BoxError> {
            Ok(Endpoint::from_shared(uri)?
                .tcp_nodelay(true)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(1 << 20)
                .tls_config(tls.clone())?)
        };
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let unix = endpoint(format!("https://{SERVER_NAME}"))?.connect_with_connector(connector).await?;
        let tcp = endpoint(format!("https://{address}"))?.connect().await?;
        Ok(Self { unix: SessionClient::new(unix), tcp: SessionClient::new(tcp), child, input })
    }

    pub(crate) async fn stop(mut self) -> Result<(), BoxError> {
        drop(self.input);
        self.child.wait().await?;
        Ok(())
    }
}
