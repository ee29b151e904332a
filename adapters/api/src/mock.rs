//! An adapter without machines, whose faults are chosen: for tests of supervision and for
//! simulation. It holds nodes as a provider would and forgets nothing that it was asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use overseer_protocol::{Cause, FleetName};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Over, Request};

/// Notices that wait for a fleet; then who brings about another one waits.
const NOTICES: usize = 1024;

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
    over: Over,
    provision_faults: VecDeque<Fault>,
    terminate_faults: VecDeque<Fault>,
    notices: HashMap<FleetName, mpsc::Sender<Notice>>,
    /// For a fleet that was told something before it listens.
    unheard: HashMap<FleetName, mpsc::Receiver<Notice>>,
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
            inner.listener(&key.fleet)
        };
        // A fleet that has stopped listens no more.
        let _ = listener.send(Notice::Ended(key.clone(), cause)).await;
    }

    /// A node is gone, and nobody is told.
    pub fn vanish(&self, key: &NodeKey) {
        self.inner.lock().nodes.remove(key);
    }

    /// The provider says that it will take a node back.
    pub async fn take_back(&self, key: &NodeKey, within: Duration) {
        let listener = self.inner.lock().listener(&key.fleet);
        let cause = Cause::Reclaimed { notice: "the provider takes it back".into() };
        let _ = listener.send(Notice::Going { key: key.clone(), cause, within: Some(within) }).await;
    }
}

impl Inner {
    fn listener(&mut self, fleet: &FleetName) -> mpsc::Sender<Notice> {
        let Self { notices, unheard, .. } = self;
        let sender = notices.entry(fleet.clone()).or_insert_with(|| {
            let (send, receive) = mpsc::channel(NOTICES);
            unheard.insert(fleet.clone(), receive);
            send
        });
        sender.clone()
    }

    fn provision(&mut self, request: &Request) -> Result<Node, AdapterError> {
        self.requests.push(request.clone());
        if self.over.has(&request.key) {
            return Err(AdapterError::Invalid(format!("life {} is over", request.key)));
        }
        if let Some(node) = self.nodes.get(&request.key) {
            return Ok(node.clone());
        }
        let fault = self.provision_faults.pop_front();
        if let Some(Fault::Refuse(error)) = fault {
            return Err(error);
        }
        self.made += 1;
        let provider_id = format!("mock-{}", self.made);
        let node =
            Node { owner: Some(request.bootstrap.owner()), ..Node::new(request.key.clone(), provider_id) };
        self.nodes.insert(request.key.clone(), node.clone());
        match fault {
            Some(Fault::LoseAnswer) => Err(AdapterError::Unknown("the answer was lost".into())),
            _ => Ok(node),
        }
    }

    fn terminate(&mut self, key: &NodeKey) -> Result<Ended, AdapterError> {
        self.terminated.push(key.clone());
        let fault = match self.nodes.contains_key(key) {
            true => self.terminate_faults.pop_front(),
            false => None,
        };
        if let Some(Fault::Refuse(error)) = fault {
            return Err(error);
        }
        self.over.add(key);
        if fault == Some(Fault::Pend) {
            return Ok(Ended::Pending);
        }
        self.nodes.remove(key);
        match fault {
            Some(Fault::LoseAnswer) => Err(AdapterError::Unknown("the answer was lost".into())),
            _ => Ok(Ended::Confirmed),
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
        let mut inner = self.inner.lock();
        if let Some(waiting) = inner.unheard.remove(fleet) {
            return waiting;
        }
        let (send, receive) = mpsc::channel(NOTICES);
        inner.notices.insert(fleet.clone(), send);
        receive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{self, Subject};

    #[tokio::test]
    async fn it_keeps_the_contract() {
        contract::run(async || {
            let mock = Mock::new();
            let killer = mock.clone();
            let kill = move |node: Node| {
                let mock = killer.clone();
                let end = async move { mock.end(&node.key, Cause::Signal { signal: 9 }).await };
                Box::pin(end) as contract::Killed
            };
            Subject {
                adapter: Arc::new(mock),
                kill: Some(Box::new(kill)),
                room: None,
                directory: None,
                keep: Box::new(()),
            }
        })
        .await;
    }
}
