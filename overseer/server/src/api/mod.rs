//! The control API: what people and programs ask of a server that runs, as gRPC.

mod calls;
pub(crate) mod condition;
mod fleets;
mod info;
mod logs;
pub(crate) mod proto;
mod results;
pub(crate) mod status;
mod task_record;
mod tasks;

use std::pin::Pin;
use std::sync::Arc;

use overseer::accept::{Farewell, Incoming};
use overseer::condition::Condition;
use overseer_protocol::MAX_PAYLOAD;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::transport::server::{Router, Server as Transport};
use tonic::{Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::proto::calls_server::CallsServer;
use self::proto::fleets_server::FleetsServer;
use self::proto::logs_server::LogsServer;
use self::proto::server_server::ServerServer;
use self::proto::tasks_server::TasksServer;
use crate::failure::Failure;
use crate::serve::server::Server;

/// Longest message: a payload and what is around it.
pub(crate) const MAX_MESSAGE: usize = MAX_PAYLOAD + 64 * 1024;
/// Bytes that one stream may have on their way.
const WINDOW: u32 = 1024 * 1024;
/// Requests that one connection may have open; more wait at the client.
const REQUESTS: u32 = 1024;
/// The part of the file descriptors that connections of clients may take: a quarter.
const CONNECTIONS: u64 = 4;
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
    router: Router,
    condition: Arc<Condition>,
}

/// One implementation of all services.
#[derive(Clone)]
struct Service {
    server: Arc<Server>,
    results: results::Results,
}

impl Api {
    /// The API, and the way to say whether the server serves.
    ///
    /// # Errors
    /// Its own description cannot be read.
    pub(crate) async fn new(server: Arc<Server>) -> Result<(Self, Health), Failure> {
        let (reporter, health_server) = tonic_health::server::health_reporter();
        let health = Health { reporter };
        health.not_serving().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| Failure::fault("serve.api", format!("the control API: {error}")))?;
        let condition = server.plane.condition();
        let service = Service { server, results: results::Results::default() };
        let router = Transport::builder()
            .max_concurrent_streams(REQUESTS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
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
            .add_service(ServerServer::new(service));
        Ok((Self { router, condition }, health))
    }

    /// Answers until it is told to hang up.
    pub(crate) async fn serve(
        self,
        listener: UnixListener,
        hang_up: oneshot::Receiver<()>,
    ) -> Result<(), tonic::transport::Error> {
        let hang_up = async {
            // The sender that is gone says the same.
            let _ = hang_up.await;
        };
        let incoming = Incoming::new(listener, CONNECTIONS, Farewell::Http2, self.condition);
        self.router.serve_with_incoming_shutdown(incoming, hang_up).await
    }
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
        let services = ["Fleets", "Calls", "Tasks", "Logs", "Server"];
        self.reporter.set_service_status("", status).await;
        self.reporter.set_service_status(WRITES, status).await;
        for service in services {
            self.reporter.set_service_status(format!("overseer.control.v1.{service}"), status).await;
        }
    }
}

impl Service {
    /// Does what must be done to its end though the client goes away, as one open request.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let entered = self.server.gate.enter().map_err(status::refuse)?;
        let task = tokio::spawn(async move {
            let result = work.await;
            drop(entered);
            result
        });
        match task.await {
            Ok(result) => result.map(Response::new).map_err(status::refuse),
            Err(error) => Err(status::refuse(Failure::fault("server.fault", error.to_string()))),
        }
    }
}
