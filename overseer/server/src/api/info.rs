//! `Server`: the server itself.

use std::sync::Arc;

use overseer_protocol::Endpoint;
use tonic::{Request, Response, Status};

use super::condition::troubles;
use super::fleets::describe;
use super::{Service, proto};

#[tonic::async_trait]
impl proto::server_server::Server for Service {
    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoResponse>, Status> {
        let server = &self.server;
        let mut fleets = Vec::new();
        for slot in server.fleets() {
            fleets.push(describe(&slot).await);
        }
        let tcp = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp(address) => Some(address.clone()),
            Endpoint::Unix(_) => None,
        };
        Ok(Response::new(proto::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: server.started.elapsed().as_millis() as u64,
            data_directory: server.data.display().to_string(),
            config: server.config_path.display().to_string(),
            socket: server.socket.display().to_string(),
            listen: server.plane.endpoints().iter().find_map(tcp),
            on_stop: server.config.read().on_stop.name().to_owned(),
            fleets,
            troubles: troubles(&server.plane.condition()),
        }))
    }

    async fn reload(
        &self,
        _: Request<proto::ReloadRequest>,
    ) -> Result<Response<proto::ReloadResponse>, Status> {
        let server = Arc::clone(&self.server);
        self.to_the_end(async move {
            let changes = server.reload().await?.into_iter().map(|change| proto::Change {
                fleet: change.fleet,
                kind: change.kind.to_owned(),
                text: change.text,
            });
            Ok(proto::ReloadResponse { changes: changes.collect() })
        })
        .await
    }
}
