//! Labors as child processes of the Overseer.
//!
//! Each is a process group of its own in a directory of its own. The standard input of an
//! agent is a pipe that this process holds: when this process ends, however it ends, the agents
//! see its end and end too. Those that do not, for a server may be started again beside its labors,
//! are found again by the mark in their environment.

mod adopted;
mod child;
mod found;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use overseer_adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Over, Request};
use overseer_labor::marker;
use overseer_protocol::FleetName;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::child::Running;

/// Notices that wait for the fleet; then watchers wait.
const NOTICES: usize = 1024;

/// Labors as child processes of this one.
#[derive(Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    program: PathBuf,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    running: HashMap<NodeKey, Running>,
    /// A late request for one of these is refused.
    over: Over,
    notices: HashMap<FleetName, mpsc::Sender<Notice>>,
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl Local {
    /// Starts this very program again as agent. Its `main` must begin with `overseer::init()`.
    pub fn new() -> Self {
        Self::with_program("/proc/self/exe")
    }

    /// Starts this `labor` or `overseer` program as agent.
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        Self { inner: Arc::new(Inner { program: program.into(), nodes: Mutex::default() }) }
    }

    /// Process ids of the agents that run, by node.
    pub fn processes(&self) -> Vec<(NodeKey, u32)> {
        let nodes = self.inner.nodes.lock();
        let mut all: Vec<_> = nodes.running.iter().map(|(key, r)| (key.clone(), r.pid())).collect();
        all.sort();
        all
    }

    fn start(&self, request: &Request) -> Result<Node, AdapterError> {
        let key = &request.key;
        let mut nodes = self.inner.nodes.lock();
        if nodes.over.has(key) {
            return Err(AdapterError::Invalid(format!("life {key} is over")));
        }
        if let Some(running) = nodes.running.get(key) {
            return Ok(running.node(key));
        }
        let running = Running::spawn(&self.inner, request)?;
        let node = running.node(key);
        nodes.running.insert(key.clone(), running);
        Ok(node)
    }

    fn end(&self, key: &NodeKey) -> Option<tokio::sync::watch::Receiver<bool>> {
        let mut nodes = self.inner.nodes.lock();
        nodes.over.add(key);
        nodes.running.get(key).map(Running::kill)
    }

    /// The nodes that this process has started.
    fn own(&self, fleet: &FleetName) -> BTreeMap<NodeKey, Node> {
        let nodes = self.inner.nodes.lock();
        let ours = nodes.running.iter().filter(|(key, _)| key.fleet == *fleet);
        ours.map(|(key, running)| (key.clone(), running.node(key))).collect()
    }
}

impl Inner {
    /// The process has ended and nothing of it is left.
    fn gone(&self, key: &NodeKey) -> Option<mpsc::Sender<Notice>> {
        let mut nodes = self.nodes.lock();
        nodes.running.remove(key);
        nodes.notices.get(&key.fleet).cloned()
    }
}

#[async_trait]
impl Adapter for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: true,
            owner_pipe: true,
            sees_exit: true,
            batch: 64,
            typical_boot: Duration::from_millis(20),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        requests.iter().map(|request| self.start(request)).collect()
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let ends: Vec<_> = keys.iter().map(|key| self.end(key)).collect();
        let mut answers = Vec::with_capacity(keys.len());
        for (key, end) in keys.iter().zip(ends) {
            answers.push(match end {
                Some(mut gone) => {
                    // A watcher that is gone has seen the end.
                    let _ = gone.wait_for(|gone| *gone).await;
                    Ok(Ended::Confirmed)
                }
                None => sweep(key.to_string()).await,
            });
        }
        answers
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        let before = self.own(fleet);
        let name = fleet.clone();
        let found = tokio::task::spawn_blocking(move || found::nodes(&name)).await;
        let found = found.map_err(|e| AdapterError::Unknown(e.to_string()))?;
        let mut nodes = found.map_err(|e| AdapterError::Unknown(format!("/proc cannot be read: {e}")))?;
        // One of ours that has ended since it was found is not another's.
        nodes.retain(|key, _| !before.contains_key(key));
        nodes.extend(self.own(fleet));
        Ok(nodes.into_values().collect())
    }

    async fn adopt(&self, found: &[Node]) {
        let mut nodes = self.inner.nodes.lock();
        for node in found {
            if nodes.over.has(&node.key) || nodes.running.contains_key(&node.key) {
                continue;
            }
            // Where only others than the agent are left, `terminate` ends them by their mark.
            if let Some(running) = adopted::adopt(&self.inner, node) {
                nodes.running.insert(node.key.clone(), running);
            }
        }
    }

    async fn at_work_here(&self) -> Option<BTreeSet<NodeKey>> {
        let marked = tokio::task::spawn_blocking(found::marked).await;
        let marked = marked.map_err(std::io::Error::other).flatten();
        marked.inspect_err(|error| tracing::debug!(%error, "/proc cannot be read")).ok()
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        let (send, receive) = mpsc::channel(NOTICES);
        self.inner.nodes.lock().notices.insert(fleet.clone(), send);
        receive
    }
}

/// Ends what carries the node's mark, whoever started it.
async fn sweep(mark: String) -> Result<Ended, AdapterError> {
    let swept = tokio::task::spawn_blocking(move || marker::end_marked(&mark)).await;
    match swept {
        Ok(Ok(_)) => Ok(Ended::Confirmed),
        Ok(Err(error)) => Err(AdapterError::Unknown(error.to_string())),
        Err(error) => Err(AdapterError::Unknown(error.to_string())),
    }
}
