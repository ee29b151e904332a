//! One agent, from its document to its end.

use std::path::PathBuf;
use std::sync::Arc;

use overseer_protocol::Bootstrap;

use crate::agent::Agent;
use crate::cache::Directory;
use crate::exit::Exit;
use crate::host_cache::HostCache;
use crate::owner::Owner;
use crate::signals::Signals;
use crate::tells::Tells;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where to call, whom to trust, who to become.
    pub bootstrap: Bootstrap,
    /// Instead of the document's directory.
    pub directory: Option<PathBuf>,
    /// Whom it tells what happens to it.
    pub tells: Tells,
}

/// Runs an agent to its end, on the runtime of the caller, which must be of one thread
/// (`current_thread`). When the document asks for the owner's pipe, standard input is it.
/// SIGTERM and SIGINT drain.
pub async fn run(config: AgentConfig) -> Exit {
    crate::files::raise_limit();
    let AgentConfig { bootstrap, directory, tells } = config;
    let owner = match bootstrap.owner_pipe {
        true => Owner::of_stdin(),
        false => Ok(Owner::Nobody),
    };
    let owner = match owner {
        Ok(owner) => owner,
        Err(error) => {
            tracing::error!(
                "standard input cannot be watched: {error}; start the agent with a pipe, or make the document without owner_pipe"
            );
            return Exit::Bootstrap;
        }
    };
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("signals cannot be heard: {error}; raise the limit of open files");
            return Exit::Usage;
        }
    };
    let named = directory.or_else(|| bootstrap.directory.clone());
    let directory = match Directory::open(named.as_deref()) {
        Ok(directory) => directory,
        Err(error) => {
            tracing::error!("{error}");
            return Exit::Usage;
        }
    };
    let cache = HostCache::open(&bootstrap.cache, directory.lasting()).unwrap_or_else(|error| {
        tracing::warn!("{error}; releases are fetched whole");
        None
    });
    tokio::spawn(crate::orphans::reap());
    let exit = Agent::new(bootstrap, directory, cache.map(Arc::new), tells).run(owner, signals).await;
    // The owner may be gone, so nobody else would: what a plugin has left outside of its group.
    crate::marker::end_others();
    exit
}
