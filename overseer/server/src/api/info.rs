//! `Server`: the server itself.

use std::path::Path;
use std::sync::Arc;

use overseer::metrics::Format;
use overseer_protocol::Endpoint;
use tonic::{Request, Response, Status};

use super::condition::troubles;
use super::fleets::describe;
use super::{Service, caller, proto};
use crate::audit::record::Asked;

#[tonic::async_trait]
impl proto::server_server::Server for Service {
    async fn info(
        &self,
        request: Request<proto::InfoRequest>,
    ) -> Result<Response<proto::InfoResponse>, Status> {
        let server = &self.server;
        let caller = caller::of(&request)?;
        let seen = self.seen(&caller);
        // Who sees one fleet has no business with the machine.
        let path = |path: &Path| if seen.all() { path.display().to_string() } else { String::new() };
        let mut fleets = Vec::new();
        for slot in seen.fleets() {
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
            data_directory: path(&server.data),
            config: path(&server.config_path),
            socket: path(&server.socket),
            listen: server.plane.endpoints().iter().find_map(tcp),
            on_stop: server.config.read().on_stop.name().to_owned(),
            fleets,
            control: server.control.get().map(ToString::to_string),
            metrics: server.metrics.get().map(ToString::to_string),
            troubles: troubles(server, &seen),
        }))
    }

    async fn metrics(
        &self,
        request: Request<proto::MetricsRequest>,
    ) -> Result<Response<proto::MetricsResponse>, Status> {
        let format = if request.into_inner().openmetrics { Format::OpenMetrics } else { Format::Prometheus };
        let text = self.server.plane.metrics().text(format);
        Ok(Response::new(proto::MetricsResponse { content_type: format.content_type().to_owned(), text }))
    }

    async fn reload(
        &self,
        request: Request<proto::ReloadRequest>,
    ) -> Result<Response<proto::ReloadResponse>, Status> {
        let caller = caller::of(&request)?;
        let server = Arc::clone(&self.server);
        let entry = self.record(&caller, Asked::default()).await?;
        self.to_the_end(entry, async move {
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
