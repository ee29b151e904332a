//! Where a server keeps its things, and where a client looks for a server.

use std::path::PathBuf;

/// Name of the control API's socket in its directory.
const SOCKET: &str = "overseer/control.sock";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The data directory where none is configured; none when there is no home to have it in.
pub(crate) fn data_directory() -> Option<PathBuf> {
    // A service manager may give several, with colons between them.
    let state = variable("STATE_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let root = || is_root().then(|| PathBuf::from("/var/lib/overseer"));
    let user = || Some(variable("XDG_STATE_HOME")?.join("overseer"));
    let home = || Some(variable("HOME")?.join(".local/state/overseer"));
    state.or_else(root).or_else(user).or_else(home)
}

/// Where a server listens that was not told where.
pub(crate) fn socket(data: &std::path::Path) -> PathBuf {
    let runtime = variable("XDG_RUNTIME_DIR").map(|directory| directory.join(SOCKET));
    let root = || is_root().then(|| PathBuf::from("/run").join(SOCKET));
    runtime.or_else(root).unwrap_or_else(|| socket_in(data))
}

/// The socket within a data directory: in a directory of its own, since the data directory may be
/// readable for others.
pub(super) fn socket_in(data: &std::path::Path) -> PathBuf {
    data.join("control/control.sock")
}

/// Where a server that was not told where may listen, in order.
pub(crate) fn sockets() -> Vec<PathBuf> {
    let runtime = variable("XDG_RUNTIME_DIR").map(|directory| directory.join(SOCKET));
    let run = PathBuf::from("/run").join(SOCKET);
    let data = data_directory().map(|data| socket_in(&data));
    runtime.into_iter().chain([run]).chain(data).collect()
}

/// The configuration that is there.
///
/// # Errors
/// The places that were looked at, in order.
pub(crate) fn configuration() -> Result<PathBuf, Vec<PathBuf>> {
    let places = configurations();
    places.iter().find(|path| path.exists()).cloned().ok_or(places)
}

/// Where a configuration is looked for, in order.
pub(crate) fn configurations() -> Vec<PathBuf> {
    let user = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let user = user.map(|directory| directory.join("overseer/overseer.toml"));
    let here = PathBuf::from("overseer.toml");
    [here].into_iter().chain(user).chain([PathBuf::from("/etc/overseer/overseer.toml")]).collect()
}
