//! A node that everybody has given up, and that comes back when its labor has another one.

use std::sync::Arc;
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::local::Local;
use overseer::{Body, FleetName, Generation, Quiet, TaskOptions, TaskState, async_trait};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, builder, eventually, labor, within, written};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::sync::mpsc;

/// A provider that says of a node that it has ended, and is wrong.
#[derive(Clone)]
struct Mistaken {
    local: Local,
    about: Arc<Mutex<Vec<NodeKey>>>,
}

#[async_trait]
impl Adapter for Mistaken {
    fn name(&self) -> &'static str {
        "mistaken"
    }

    fn capabilities(&self) -> Capabilities {
        self.local.capabilities()
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        self.local.provision(requests).await
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let mut answers = Vec::new();
        for key in keys {
            let first = key.generation == Generation::FIRST && !self.about.lock().contains(key);
            if first {
                self.about.lock().push(key.clone());
                answers.push(Ok(Ended::Confirmed));
            } else {
                answers.extend(self.local.terminate(std::slice::from_ref(key)).await);
            }
        }
        answers
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        let nodes = self.local.list(fleet).await?;
        let about = self.about.lock();
        Ok(nodes.into_iter().filter(|node| !about.contains(&node.key)).collect())
    }

    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice> {
        self.local.notices(fleet)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_when_its_labor_has_another_is_refused_and_ends_itself() {
    let written = written::listen();
    let adapter = Mistaken { local: Local::with_program(labor!()), about: Arc::default() };
    let ms = Duration::from_millis;
    // Its own lease would let it live for an hour.
    let builder = builder(Quiet, adapter.clone()).heartbeat(ms(100)).silence(ms(700)).grace(ms(700));
    let (fleet, labor) = TestFleet::with_one(builder.lease(Duration::from_secs(3600))).await;
    let of_life = |generation: u32| {
        let mut all = processes::of(fleet.name());
        all.retain(|p| p.generation == generation);
        all
    };
    let old = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    // Its plugin runs a task when it is lost, and goes on with that while it is.
    let mark = tempfile::tempdir().unwrap();
    let mark = mark.path().join("mark");
    let mut telemetry = fleet.telemetry();
    let payload = serde_json::to_vec(&(&mark, 1500u64)).unwrap();
    let task = fleet.submit_bytes("mark", payload, TaskOptions::default()).await.unwrap();
    within("the plugin has begun", async {
        let begun = |body: &Body<'_>| matches!(body, Body::Event { name: "marks", .. });
        while !telemetry.next().await.unwrap().iter().any(|record| begun(&record.body)) {}
    })
    .await;
    processes::signal(old, Signal::STOP);
    within("its labor has another", labor.wait_for(|s| s.generation == Generation(2))).await;
    within("which is ready", labor.ready()).await.unwrap();
    within("a result", task.result_bytes()).await.unwrap();
    let record = task.record().await.unwrap();
    let TaskState::Done { generation, .. } = record.state else { panic!("{record:?}") };
    assert_eq!((generation, record.attempts), (Generation(2), 2));
    let runs = || std::fs::read_to_string(&mark).unwrap_or_default().lines().count();
    eventually("both plugins have run it", async || (runs() == 2).then_some(())).await;
    assert!(!of_life(1).is_empty());

    processes::signal(old, Signal::CONT);
    eventually("the old node has ended itself", async || of_life(1).is_empty().then_some(())).await;
    let why = ["WARN", "life 1 of labor", &labor.id().to_string()];
    assert!(written.has(&why), "nobody wrote that it was refused");
    // Nothing of it was recorded, and the labor of today was not disturbed.
    assert_eq!(task.record().await.unwrap(), record);
    assert_eq!(labor.status().generation, Generation(2));
    assert_eq!(within("an answer", labor.call::<_, u32>("echo", &7)).await.unwrap(), 7);
    assert_eq!(of_life(2).iter().filter(|p| p.role == Role::Agent).count(), 1);
    fleet.end().await;
}
