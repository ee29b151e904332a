//! Local labors that are told of the TCP endpoint only, as those of another machine are.

use async_trait::async_trait;
use overseer::FleetName;
use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer_protocol::Endpoint;
use tokio::sync::mpsc;

pub(super) struct OverTcp(pub(super) Local);

#[async_trait]
impl Adapter for OverTcp {
    fn name(&self) -> &'static str {
        "local-over-tcp"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        let mut requests = requests.to_vec();
        for request in &mut requests {
            request.bootstrap.endpoints.retain(|e| matches!(e, Endpoint::Tcp(_)));
        }
        self.0.provision(&requests).await
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        self.0.terminate(keys).await
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        self.0.list(fleet).await
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        self.0.notices(fleet)
    }
}
