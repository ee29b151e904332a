//! The control API: what people and programs ask of a server that runs, as gRPC.

mod audit;
mod caller;
mod calls;
pub(crate) mod condition;
mod fleets;
mod info;
mod logs;
pub(crate) mod proto;
mod results;
pub(crate) mod status;
mod stream;
mod task_record;
mod tasks;
mod tokens;
mod trace;
mod upgrade;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use overseer::accept::{Farewell, Incoming};
use overseer::condition::Condition;
use overseer_protocol::MAX_PAYLOAD;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::Stream;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::Server as Transport;
use tonic::{Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::proto::audit_server::AuditServer;
use self::proto::calls_server::CallsServer;
use self::proto::fleets_server::FleetsServer;
use self::proto::logs_server::LogsServer;
use self::proto::server_server::ServerServer;
use self::proto::tasks_server::TasksServer;
use self::proto::tokens_server::TokensServer;
pub(crate) use self::trace::TRACEPARENT;
use crate::access::{Access, AccessLayer, Way};
use crate::audit::log::Open;
use crate::audit::outcome;
use crate::failure::Failure;
use crate::serve::control::ControlTcp;
use crate::serve::server::Server;

/// Longest message: a payload and what is around it.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + 64 * 1024;
/// Bytes that one stream may have on their way.
const WINDOW: u32 = 1024 * 1024;
/// Requests that one connection may have open; more wait at the client.
const REQUESTS: u32 = 1024;
/// Bytes of headers in one request.
const HEADERS: u32 = 16 * 1024;
/// A connection over TCP that is silent for so long is asked whether anybody is there, and closed
/// when no answer comes within as long again.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The part of the file descriptors that connections of clients may take: a quarter, of each socket.
pub(crate) const CONNECTIONS: u64 = 4;
/// Messages of a stream that wait for a slow reader.
const WAITING: usize = 16;

/// Bytes of one piece of what is too long for one message.
pub(crate) const PIECE: usize = 1024 * 1024;

/// The name by which health says whether anything new is taken.
const WRITES: &str = "overseer.control.v1.Writes";

/// A server streaming answer.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The API of one server.
pub(crate) struct Api {
    routes: Routes,
    access: Arc<Access>,
    /// Changes when the certificates of listeners do.
    certificates: watch::Receiver<u64>,
    condition: Arc<Condition>,
}

/// One implementation of all services.
#[derive(Clone)]
struct Service {
    server: Arc<Server>,
    access: Arc<Access>,
    results: results::Results,
}

impl Api {
    /// The API, and the way to say whether the server serves.
    ///
    /// # Errors
    /// Its own description cannot be read.
    pub(crate) async fn new(server: Arc<Server>, access: Arc<Access>) -> Result<(Self, Health), Failure> {
        let (reporter, health_server) = tonic_health::server::health_reporter();
        let health = Health { reporter };
        health.not_serving().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| Failure::fault("serve.api", format!("the control API: {error}")))?;
        let (certificates, condition) = (server.plane.certificates_changed(), server.plane.condition());
        let service = Service { server, access: Arc::clone(&access), results: results::Results::default() };
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(health_server)
            .add_service(reflection)
            .add_service(FleetsServer::new(service.clone()))
            .add_service(
                CallsServer::new(service.clone())
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(TasksServer::new(service.clone()))
            .add_service(LogsServer::new(service.clone()))
            .add_service(TokensServer::new(service.clone()))
            .add_service(AuditServer::new(service.clone()))
            .add_service(ServerServer::new(service));
        Ok((Self { routes: routes.routes(), access, certificates, condition }, health))
    }

    /// Answers at the socket, and over TCP where that is asked for, until it is told to hang up.
    pub(crate) async fn serve(
        self,
        listener: UnixListener,
        tcp: Option<ControlTcp>,
        hang_up: oneshot::Receiver<()>,
    ) -> Result<(), tonic::transport::Error> {
        let (stop, stopped) = watch::channel(false);
        let hang_up = async {
            // The sender that is gone says the same.
            let _ = hang_up.await;
            stop.send_replace(true);
            Ok(())
        };
        let layer = |way| AccessLayer::new(Arc::clone(&self.access), way);
        let incoming = Incoming::new(listener, CONNECTIONS, Farewell::Http2, Arc::clone(&self.condition));
        let socket = transport()
            .layer(layer(Way::Socket))
            .add_routes(self.routes.clone())
            .serve_with_incoming_shutdown(incoming, until(stopped.clone()));
        let tcp = async {
            match tcp {
                Some(tcp) => self.serve_tcp(tcp, stopped).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(socket, tcp, hang_up).map(|_| ())
    }

    /// Each time that the certificate changes another server takes those who come from then on.
    async fn serve_tcp(
        &self,
        tcp: ControlTcp,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), tonic::transport::Error> {
        let mut changed = self.certificates.clone();
        let (shown, entrance) = tcp.open(Arc::clone(&self.condition), stopped.clone());
        let mut servers = tokio::task::JoinSet::new();
        loop {
            changed.mark_unchanged();
            match shown.tls() {
                Ok(tls) => {
                    let server = transport()
                        .tls_config(tls)?
                        .http2_keepalive_interval(Some(KEEPALIVE))
                        .http2_keepalive_timeout(Some(KEEPALIVE))
                        .http2_max_header_list_size(HEADERS)
                        .layer(AccessLayer::new(Arc::clone(&self.access), Way::Tcp))
                        .add_routes(self.routes.clone());
                    let (sockets, until) = (entrance.sockets(), until(stopped.clone()));
                    servers.spawn(server.serve_with_incoming_shutdown(sockets, until));
                }
                // The one before goes on.
                Err(error) => tracing::error!(%error, "the control API has no new certificate"),
            }
            tokio::select! {
                () = shown.changed(&mut changed) => {}
                () = until(stopped.clone()) => break,
            }
        }
        while let Some(ended) = servers.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) => tracing::error!(%error, "a server of the control API has failed"),
            }
        }
        Ok(())
    }
}

fn transport() -> Transport {
    Transport::builder()
        .max_concurrent_streams(REQUESTS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // The sender that is gone says the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Says whether the server serves, by `grpc.health.v1`.
#[derive(Clone)]
pub(crate) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// All fleets are started.
    pub(crate) async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// Not yet, or not any more.
    pub(crate) async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// Whether tasks and labors are taken: not while the disk is full. Everything else is answered
    /// as ever, so this is a service of its own.
    pub(crate) async fn writes(&self, taken: bool) {
        let status = if taken { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(WRITES, status).await;
    }

    async fn set(&self, status: ServingStatus) {
        let services = ["Fleets", "Calls", "Tasks", "Logs", "Tokens", "Audit", "Server"];
        self.reporter.set_service_status("", status).await;
        self.reporter.set_service_status(WRITES, status).await;
        for service in services {
            self.reporter.set_service_status(format!("overseer.control.v1.{service}"), status).await;
        }
    }
}

impl Service {
    /// Does what must be done to its end though the client goes away, as one open request, and
    /// records how it ended.
    async fn to_the_end<T: Send + 'static>(
        &self,
        entry: Open,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let entered = match self.server.gate.enter() {
            Ok(entered) => entered,
            Err(failure) => {
                entry.end(&failure.code).await;
                return Err(status::refuse(failure));
            }
        };
        let task = tokio::spawn(async move {
            let result = work.await.map_err(status::refuse);
            entry.end(&outcome(&result)).await;
            drop(entered);
            result
        });
        match task.await {
            Ok(result) => result.map(Response::new),
            Err(error) => Err(status::refuse(Failure::fault("server.fault", error.to_string()))),
        }
    }
}
