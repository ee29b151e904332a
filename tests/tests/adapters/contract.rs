//! Local does what is asked of every adapter, with the real agent.

use std::sync::Arc;

use overseer::adapter::Node;
use overseer::adapter::contract::{self, Killed, Subject};
use overseer::local::Local;
use overseer_tests::{labor, processes};
use rustix::process::Signal;

fn kill(node: Node) -> Killed {
    let pid = node.provider_id.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
    processes::signal(pid.expect("a node is called by its process"), Signal::KILL);
    Box::pin(std::future::ready(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn local_keeps_the_contract_of_adapters() {
    contract::run(async || {
        let directory = tempfile::tempdir().unwrap();
        Subject {
            adapter: Arc::new(Local::with_program(labor!())),
            kill: Some(Box::new(kill)),
            room: None,
            directory: Some(directory.path().to_owned()),
            keep: Box::new(directory),
        }
    })
    .await;
}
