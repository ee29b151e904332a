//! `GET /metrics` over plain HTTP, for Prometheus.
//!
//! A connection is for one request and has a time for it, and there are few of them, so a reader
//! that is slow or never comes to an end holds nothing up but itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{self, Bytes};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use overseer::ControlPlane;
use overseer::accept::{Accepted, Farewell, Incoming};
use overseer::metrics::Format;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;

use super::server::Server;
use crate::failure::Failure;

/// Connections at a time; more are closed at once.
const CONNECTIONS: usize = 16;
/// From the begin of a connection to the last byte of the answer.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of headers, at most.
const HEADERS: usize = 16 * 1024;
/// The part of the file descriptors that they may take, where that is less: an eighth.
const PART: u64 = 8;

/// Listens and answers for as long as the process lives.
///
/// # Errors
/// `serve.metrics`: the address cannot be listened on.
pub(super) async fn serve(server: &Server, address: SocketAddr) -> Result<(), Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = bound.await.map_err(|error| {
        Failure::fault("serve.metrics", format!("metrics cannot be served on {address}: {error}"))
            .help("choose another address for `metrics` in [server]")
    })?;
    let _ = server.metrics.set(address);
    let incoming = Incoming::new(listener, PART, Farewell::Silent, server.plane.condition());
    tokio::spawn(accept(incoming, server.plane.clone()));
    Ok(())
}

async fn accept(mut incoming: Incoming<TcpListener>, plane: ControlPlane) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(stream) = incoming.next().await {
        let Ok(stream) = stream else { continue };
        let peer = stream.connect_info().remote_addr();
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let plane = plane.clone();
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(TIME, answer(stream, plane)).await;
                    if !matches!(answered, Ok(Ok(()))) {
                        tracing::debug!(?peer, "a reader of metrics did not get to the end");
                    }
                    drop(place);
                });
            }
            Err(_) => tracing::warn!(?peer, "too many read metrics at once; this one is sent away"),
        }
    }
}

async fn answer(stream: Accepted<TcpStream>, plane: ControlPlane) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<body::Incoming>| {
        let response = respond(&request, &plane);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(request: &Request<body::Incoming>, plane: &ControlPlane) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let mut response = Response::new(Full::from(plane.metrics().text(format)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}
