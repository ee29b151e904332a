//! What plugins measure, as metrics that Prometheus reads.
//!
//! `cargo run -p telemetry_to_prometheus` serves `/metrics` on a port of the loopback until Ctrl-C.
//! With `--listen 127.0.0.1:9465` on that one.

mod gauges;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::routing::get;
use overseer::local::Local;
use overseer::metrics::Format;
use overseer::{Body, ControlPlane, Fleet, Labor, MainError, Overseer, Record, Release};
use tokio::net::TcpListener;

use crate::gauges::Gauges;

/// Labors of this fleet, which bounds the samples of each metric.
const LABORS: usize = 2;

/// Callbacks that keep the newest number of each kind.
struct Bridge {
    gauges: Arc<Gauges>,
}

impl Overseer for Bridge {
    async fn handle_telemetry(&mut self, fleet: &Fleet<Self>, labor: &Labor, record: &Record<'_>) {
        if let Body::Metric { name, value } = record.body {
            self.gauges.set(fleet.name().as_str(), labor.id(), name, value);
        }
    }

    async fn handle_terminated(
        &mut self,
        _: &Fleet<Self>,
        labor: &Labor,
        _: &overseer::Cause,
        _: overseer::WhatNext,
    ) {
        // What is gone measures nothing: its last number would stay for ever.
        self.gauges.forget(labor.id());
    }
}

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let listen = std::env::args().skip_while(|arg| arg != "--listen").nth(1);
        let listener = TcpListener::bind(listen.as_deref().unwrap_or("127.0.0.1:0")).await?;
        let gauges = Arc::new(Gauges::default());

        let plane = ControlPlane::embedded().await?;
        let release = Release::plugin_beside_program("telemetry_to_prometheus", "1.0.0")?;
        let bridge = Bridge { gauges: Arc::clone(&gauges) };
        let fleet = Fleet::builder(bridge)
            .name("kilns")
            .control_plane(&plane)
            .adapter(Local::new())
            .release(release)
            .max_nodes(LABORS)
            .start()
            .await?;
        for (number, labor) in fleet.start_children(LABORS).await?.into_iter().enumerate() {
            labor.ready().await?;
            labor.call::<_, ()>("fire", &(900.0 + number as f64)).await?;
        }

        // What the Overseer says of itself, and what its labors have measured.
        let metrics = {
            let plane = plane.clone();
            move |headers: HeaderMap| async move {
                let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
                let format = Format::accepted(accept);
                let mut page = plane.metrics();
                gauges.write(&mut page);
                ([(CONTENT_TYPE, format.content_type())], page.text(format))
            }
        };
        println!("http://{}/metrics", listener.local_addr()?);
        let serving = axum::serve(listener, Router::new().route("/metrics", get(metrics)));
        let stop = async {
            // Without signals there is nothing to wait for.
            let _ = tokio::signal::ctrl_c().await;
        };
        serving.with_graceful_shutdown(stop).await?;
        fleet.stop().await;
        plane.shutdown().await;
        Ok(())
    })
}
