//! The other processes of the benches: the floor, which is bare tonic over the same mutual TLS,
//! and an Overseer whose memory is looked at from outside.

use std::error::Error;
use std::io::BufRead;
use std::path::PathBuf;
use std::pin::Pin;

use overseer::local::Local;
use overseer::{Fleet, MainError, Release};
use overseer_protocol::proto::session_server::{Session, SessionServer};
use overseer_protocol::proto::{
    self, Call, Order, RenewRequest, ToLabor, ToOverseer, call_result, order, report,
};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// What the floor is told on its first line of standard input. It ends with its input.
#[derive(Deserialize)]
struct FloorSpec {
    authority: String,
    certificate: String,
    key: String,
    socket: PathBuf,
}

/// What the Overseer says once its labors are ready. It ends with its input.
#[derive(Serialize)]
struct Up {
    agents: Vec<u32>,
}

fn main() -> Result<(), MainError> {
    overseer::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor"] => floor(),
        ["overseer", release, labors] => supervise(release, labors.parse()?),
        _ => Err("this is for `cargo bench -p overseer-tests` to start".into()),
    }
}

fn supervise(release: &str, labors: usize) -> Result<(), MainError> {
    overseer::run(async move {
        let adapter = Local::new();
        let release = Release::plugin_beside_program(release, "1.0.0")?;
        let fleet = Fleet::quiet().adapter(adapter.clone()).release(release).start().await?;
        for labor in fleet.start_children(labors).await? {
            labor.ready().await?;
        }
        let agents = adapter.processes().into_iter().map(|(_, pid)| pid).collect();
        println!("{}", serde_json::to_string(&Up { agents })?);
        input_ends().await;
        fleet.stop().await;
        Ok(())
    })
}

fn floor() -> Result<(), MainError> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let spec: FloorSpec = serde_json::from_str(&line)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let unix = UnixListener::bind(&spec.socket)?;
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", tcp.local_addr()?);
        let over_unix = server(&spec)?.serve_with_incoming(UnixListenerStream::new(unix));
        let incoming = TcpIncoming::from(tcp).with_nodelay(Some(true));
        let over_tcp = server(&spec)?.serve_with_incoming(incoming);
        tokio::select! {
            ended = over_unix => ended?,
            ended = over_tcp => ended?,
            () = input_ends() => {}
        }
        Ok(())
    })
}

async fn input_ends() {
    // An input that cannot be read has ended too.
    let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()))
        .await;
}

fn server(spec: &FloorSpec) -> Result<Router, Box<dyn Error + Send + Sync>> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&spec.certificate, &spec.key))
        .client_ca_root(Certificate::from_pem(&spec.authority));
    // The windows of the Overseer's own gateway.
    let server = Server::builder()
        .tls_config(tls)?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    Ok({ server }.add_service(SessionServer::new(Echo)))
}

/// The service that labors attach to, with nothing behind it but the same bytes back.
struct Echo;

#[tonic::async_trait]
impl Session for Echo {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToLabor, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<ToOverseer>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let echoed = request.into_inner().map(|message| {
            let orders = message?.reports.into_iter().filter_map(|report| match report.kind {
                Some(report::Kind::Result(result)) => Some(echo(result)),
                _ => None,
            });
            Ok(ToLabor { orders: orders.collect() })
        });
        Ok(Response::new(Box::pin(echoed)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<proto::Identity>, Status> {
        let certificate = String::from_utf8(request.into_inner().csr.into());
        let certificate = certificate.map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(proto::Identity { certificate, ..Default::default() }))
    }
}

fn echo(result: proto::CallResult) -> Order {
    let payload = match result.outcome {
        Some(call_result::Outcome::Ok(bytes)) => bytes,
        _ => Default::default(),
    };
    Order { kind: Some(order::Kind::Call(Call { id: result.id, payload, ..Call::default() })) }
}
