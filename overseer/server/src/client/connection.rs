//! The way to the server.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use overseer::accept::REFUSAL;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::api::status::full;
use crate::failure::Failure;
use crate::serve::places;

/// Connects to the server at this socket, or to the first that is found.
///
/// # Errors
/// `server.not_found`, with all places that were looked at.
pub(super) async fn connect(at: Option<&Path>) -> Result<Channel, Failure> {
    let places = at.map_or_else(places::sockets, |path| vec![path.to_owned()]);
    let mut looked_at = Vec::new();
    for path in places {
        match UnixStream::connect(&path).await {
            Ok(stream) => return channel(path, stream).await,
            Err(error) => looked_at.push(format!("{} ({})", path.display(), why(&error))),
        }
    }
    let message = format!("no server was found; looked at {}", looked_at.join(", "));
    Err(Failure::input("server.not_found", message)
        .help("start one with `overseer serve`, or name its socket with --server or OVERSEER_SERVER"))
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "not there".into(),
        io::ErrorKind::ConnectionRefused => "nobody listens".into(),
        io::ErrorKind::PermissionDenied => "not allowed".into(),
        _ => error.to_string(),
    }
}

/// Speaks over a connection that is open already; over new ones should it break.
async fn channel(path: PathBuf, stream: UnixStream) -> Result<Channel, Failure> {
    let first = std::sync::Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_| {
        let (first, path) = (first.lock().take(), path.clone());
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(path).await.map(TokioIo::new),
            }
        }
    });
    // The name is of no use: a socket is where it is.
    let endpoint = Endpoint::from_static("http://overseer");
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let text = overseer_protocol::error_text(&error);
        if text.contains(REFUSAL) {
            return full();
        }
        Failure::fault("server.connection", format!("the server could not be asked: {text}"))
    })
}
