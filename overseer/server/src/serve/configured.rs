//! The configuration that `overseer serve` would take here, for commands that speak to its server
//! or look after what it keeps.

use std::path::PathBuf;

use super::places;
use crate::config::{Config, ServerConfig};
use crate::failure::Failure;

/// `[server]` of it, if there is one.
///
/// # Errors
/// `config.…`.
fn server() -> Result<Option<ServerConfig>, Failure> {
    let Ok(path) = places::configuration() else { return Ok(None) };
    Ok(Some(Config::read(&path)?.server))
}

/// The data directory of the server here; none when there is no home to have it in.
///
/// # Errors
/// `config.…`.
pub(crate) fn data_directory() -> Result<Option<PathBuf>, Failure> {
    Ok(server()?.and_then(|server| server.data).or_else(places::data_directory))
}

/// Where a server may listen, in order. A configuration that cannot be read is no reason not to
/// ask a server that runs.
pub(crate) fn sockets() -> Vec<PathBuf> {
    let configured = server().ok().flatten().and_then(|server| {
        let in_data = || server.data.as_deref().map(places::socket_in);
        server.socket.clone().or_else(in_data)
    });
    let others = places::sockets().into_iter().filter(|path| Some(path) != configured.as_ref());
    configured.iter().cloned().chain(others).collect()
}
