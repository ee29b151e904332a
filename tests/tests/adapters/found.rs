//! Local nodes that another process has started, such as the server before this one.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use overseer::adapter::{Adapter, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer::{Cause, FleetName, Generation, LaborId, Resources};
use overseer_labor::marker;
use overseer_protocol::{Bootstrap, Claim, Endpoint, OnLeaseLost, Secret};
use overseer_tests::{eventually, labor, processes, within};

fn fleet(name: &str) -> FleetName {
    format!("{name}-{}", std::process::id()).parse().unwrap()
}

fn key(fleet: &FleetName, n: u128) -> NodeKey {
    NodeKey { fleet: fleet.clone(), labor: LaborId::new(1, n), generation: Generation::FIRST }
}

/// A node whose agent finds nobody and runs on.
fn request(key: &NodeKey, room: &Path) -> Request {
    let token = Secret::new("nobody takes this one".into());
    let bootstrap = Bootstrap {
        format: Bootstrap::FORMAT,
        fleet: key.fleet.clone(),
        endpoints: vec![Endpoint::Unix("/nonexistent/overseer.sock".into())],
        authorities: String::new(),
        release_keys: Vec::new(),
        claim: Claim::Labor { labor: key.labor, generation: key.generation, token },
        lease_ms: 600_000,
        owner: None,
        on_lease_lost: OnLeaseLost::End,
        owner_pipe: true,
        directory: Some(room.join(key.labor.to_string())),
        cache: Default::default(),
        isolation: Default::default(),
        environment: Default::default(),
    };
    Request { key: key.clone(), bootstrap, resources: Resources::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_somebody_else_started_are_listed_and_ended() {
    let room = tempfile::tempdir().unwrap();
    let (ours, theirs) = (fleet("found"), fleet("found-beside"));
    let before = Local::with_program(labor!());
    let after = Local::with_program(labor!());
    let mut notices = before.notices(&ours);
    let keys = [key(&ours, 1), key(&ours, 2)];
    let requests = [&keys[0], &keys[1], &key(&theirs, 3)].map(|key| request(key, room.path()));
    let mut nodes: Vec<Node> = Vec::new();
    for node in before.provision(&requests).await {
        nodes.push(node.unwrap());
    }
    assert_eq!(after.list(&ours).await.unwrap(), nodes[..2], "the one that comes after lists them");
    assert_eq!(before.list(&ours).await.unwrap(), nodes[..2], "and who started them lists each once");
    // A third one is its own: nobody lists it twice.
    let own = after.provision(&[request(&key(&ours, 4), room.path())]).await.remove(0).unwrap();
    let all = [&nodes[..2], std::slice::from_ref(&own)].concat();
    assert_eq!(after.list(&ours).await.unwrap(), all);

    assert_eq!(after.terminate(&keys[..1]).await, [Ok(Ended::Confirmed)]);
    assert_eq!(after.list(&ours).await.unwrap(), all[1..]);
    let told = within("the notice", notices.recv()).await.unwrap();
    assert_eq!(told, Notice::Ended(keys[0].clone(), Cause::Signal { signal: 9 }));

    let left = [keys[1].clone(), own.key, key(&theirs, 3)];
    assert_eq!(
        after.terminate(&left).await,
        [Ok(Ended::Confirmed), Ok(Ended::Confirmed), Ok(Ended::Confirmed)]
    );
    for fleet in [&ours, &theirs] {
        assert_eq!(after.list(fleet).await.unwrap(), []);
        assert_eq!(processes::of(fleet), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_node_without_its_agent_is_listed_too() {
    let fleet = fleet("left");
    let key = key(&fleet, 1);
    let sleep = Command::new("sleep")
        .arg("1000")
        .env(marker::VARIABLE, key.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut left = Killed(sleep);
    let local = Local::with_program(labor!());
    let node = Node::new(key.clone(), format!("pid {}", left.0.id()));
    // One that is just becoming another program shows no environment for a moment.
    let listed = eventually("it is listed", async || {
        let found = local.list(&fleet).await.unwrap();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(listed.await, [node]);
    // It is gone for the adapter when it runs no more, though its parent has not looked yet.
    assert_eq!(local.terminate(&[key]).await, [Ok(Ended::Confirmed)]);
    assert_eq!(local.list(&fleet).await.unwrap(), []);
    assert!(!left.0.wait().unwrap().success());
}

/// Ended also where a test has failed.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
