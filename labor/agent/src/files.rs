//! File descriptors: how many an agent may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as an agent has use for, with its host and what that starts.
const MOST: u64 = 65_536;

/// Raises the soft limit as far as that may be done without being root; never lowers it. What the agent
/// starts has the same limit.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
