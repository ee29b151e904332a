//! Nodes that a test plays itself: it gets the bootstrap document, and no agent is started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer::{FleetName, LaborId, async_trait};
use overseer_protocol::Bootstrap;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::patience::eventually;

/// Local agents, but for the labors that are the test's to play. Every bootstrap document is
/// kept for the test to read.
#[derive(Clone)]
pub struct Actors {
    local: Local,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    played: bool,
    documents: BTreeMap<NodeKey, Bootstrap>,
}

impl Actors {
    /// Real agents are of this program.
    pub fn new(program: &str) -> Self {
        Self { local: Local::with_program(program), shared: Arc::default() }
    }

    /// From now on the test plays every new node, or no new one.
    pub fn play(&self, play: bool) {
        self.shared.lock().played = play;
    }

    /// What the first node of a labor was told; waits for it.
    pub async fn document(&self, labor: LaborId) -> Bootstrap {
        eventually("a bootstrap document", async || {
            let shared = self.shared.lock();
            shared.documents.iter().find(|(key, _)| key.labor == labor).map(|(_, d)| d.clone())
        })
        .await
    }
}

#[async_trait]
impl Adapter for Actors {
    fn name(&self) -> &'static str {
        "actors"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { typical_boot: Duration::from_millis(20), ..self.local.capabilities() }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let played = {
            let mut shared = self.shared.lock();
            shared.documents.extend(requests.iter().map(|r| (r.key.clone(), r.bootstrap.clone())));
            shared.played
        };
        if played {
            let node = |r: &Request| Ok(Node::new(r.key.clone(), "the test"));
            return requests.iter().map(node).collect();
        }
        self.local.provision(requests).await
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        self.local.terminate(keys).await
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        self.local.list(fleet).await
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        self.local.notices(fleet)
    }
}
