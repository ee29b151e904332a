//! Nodes whose bootstrap documents are handed to somebody else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::{FleetName, async_trait};
use overseer_protocol::{Bootstrap, Endpoint};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// An adapter that starts nothing and gives each document to the receiver.
pub struct Handed {
    documents: mpsc::UnboundedSender<Bootstrap>,
    nodes: Arc<Mutex<HashMap<NodeKey, Node>>>,
}

impl Handed {
    /// One, and the documents of its nodes. Only the endpoints over TCP are in them.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Bootstrap>) {
        let (documents, receive) = mpsc::unbounded_channel();
        (Self { documents, nodes: Arc::default() }, receive)
    }
}

#[async_trait]
impl Adapter for Handed {
    fn name(&self) -> &'static str {
        "handed"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: false,
            owner_pipe: false,
            sees_exit: false,
            batch: 64,
            typical_boot: Duration::from_secs(1),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let answer = |request: &Request| {
            let mut document = request.bootstrap.clone();
            document.endpoints.retain(|e| matches!(e, Endpoint::Tcp(_)));
            let node = Node::new(request.key.clone(), "somebody else's");
            if self.nodes.lock().insert(request.key.clone(), node.clone()).is_none() {
                let gone = |_| AdapterError::Invalid("nobody takes the documents".into());
                self.documents.send(document).map_err(gone)?;
            }
            Ok(node)
        };
        requests.iter().map(answer).collect()
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let mut nodes = self.nodes.lock();
        keys.iter().for_each(|key| drop(nodes.remove(key)));
        keys.iter().map(|_| Ok(Ended::Confirmed)).collect()
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        Ok(self.nodes.lock().values().filter(|node| node.key.fleet == *fleet).cloned().collect())
    }

    fn notices(&self, _: &FleetName) -> mpsc::Receiver<Notice> {
        mpsc::channel(1).1
    }
}
