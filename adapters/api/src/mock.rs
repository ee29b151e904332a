//! An adapter without machines, whose faults are chosen: for tests of supervision and for
//! simulation. It holds nodes as a provider would and forgets nothing that it was asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use overseer_protocol::{Cause, FleetName};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is refused; nothing was done.
    Refuse(AdapterError),
    /// It is done, and the answer is lost.
    LoseAnswer,
    /// Only `terminate`: it is taken, and confirmed by [`Mock::end`] later.
    Pend,
}

/// An adapter without machines. Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Mock {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeKey, Node>,
    requests: Vec<Request>,
    terminated: Vec<NodeKey>,
    provision_faults: VecDeque<Fault>,
    terminate_faults: VecDeque<Fault>,
    notices: HashMap<FleetName, mpsc::Sender<Notice>>,
    made: u64,
}

impl Mock {
    /// One without nodes and faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next provision request that has no fault yet gets this one.
    pub fn fail_provision(&self, fault: Fault) {
        self.inner.lock().provision_faults.push_back(fault);
    }

    /// The next terminate request that has no fault yet gets this one.
    pub fn fail_terminate(&self, fault: Fault) {
        self.inner.lock().terminate_faults.push_back(fault);
    }

    /// Nodes that exist, by key.
    pub fn nodes(&self) -> Vec<Node> {
        self.inner.lock().nodes.values().cloned().collect()
    }

    /// Every request for a node so far, in order, repeats included.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.lock().requests.clone()
    }

    /// Every request to end a node so far, in order, repeats included.
    pub fn terminated(&self) -> Vec<NodeKey> {
        self.inner.lock().terminated.clone()
    }

    /// A node ends by itself, or a pending end is done: its fleet is told.
    pub async fn end(&self, key: &NodeKey, cause: Cause) {
        let listener = {
            let mut inner = self.inner.lock();
            inner.nodes.remove(key);
            inner.notices.get(&key.fleet).cloned()
        };
        if let Some(listener) = listener {
            // A fleet that has stopped listens no more.
            let _ = listener.send(Notice::Ended(key.clone(), cause)).await;
        }
    }

    /// The provider says that it will take a node back.
    pub async fn take_back(&self, key: &NodeKey, within: Duration) {
        let listener = self.inner.lock().notices.get(&key.fleet).cloned();
        if let Some(listener) = listener {
            let cause = Cause::Reclaimed { notice: "the provider takes it back".into() };
            let _ = listener.send(Notice::Going { key: key.clone(), cause, within: Some(within) }).await;
        }
    }
}

impl Inner {
    fn provision(&mut self, request: &Request) -> Result<Node, AdapterError> {
        self.requests.push(request.clone());
        if let Some(node) = self.nodes.get(&request.key) {
            return Ok(node.clone());
        }
        let fault = self.provision_faults.pop_front();
        if let Some(Fault::Refuse(error)) = fault {
            return Err(error);
        }
        self.made += 1;
        let node = Node { key: request.key.clone(), provider_id: format!("mock-{}", self.made) };
        self.nodes.insert(request.key.clone(), node.clone());
        match fault {
            Some(Fault::LoseAnswer) => Err(AdapterError::Unknown("the answer was lost".into())),
            _ => Ok(node),
        }
    }

    fn terminate(&mut self, key: &NodeKey) -> Result<Ended, AdapterError> {
        self.terminated.push(key.clone());
        if !self.nodes.contains_key(key) {
            return Ok(Ended::Confirmed);
        }
        match self.terminate_faults.pop_front() {
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::Pend) => Ok(Ended::Pending),
            Some(Fault::LoseAnswer) => {
                self.nodes.remove(key);
                Err(AdapterError::Unknown("the answer was lost".into()))
            }
            None => {
                self.nodes.remove(key);
                Ok(Ended::Confirmed)
            }
        }
    }
}

#[async_trait]
impl Adapter for Mock {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: true,
            owner_pipe: false,
            sees_exit: true,
            batch: 32,
            typical_boot: Duration::from_millis(1),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let mut inner = self.inner.lock();
        requests.iter().map(|request| inner.provision(request)).collect()
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let mut inner = self.inner.lock();
        keys.iter().map(|key| inner.terminate(key)).collect()
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        let inner = self.inner.lock();
        Ok(inner.nodes.values().filter(|n| n.key.fleet == *fleet).cloned().collect())
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        let (send, receive) = mpsc::channel(1024);
        self.inner.lock().notices.insert(fleet.clone(), send);
        receive
    }
}
