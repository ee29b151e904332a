//! Nodes that are made when their labor has ended already, by an adapter that remembers nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overseer::adapter::{Adapter, AdapterError, Capabilities, Ended, Node, NodeKey, Notice, Request};
use overseer::{
    BootPhase, Cause, Deadlines, Fleet, FleetBuilder, FleetName, LaborState, Quiet, Restart, async_trait,
};
use overseer_tests::{TestFleet, eventually, within};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// A provider that takes its time. An end that is asked for before the node is there finds
/// nothing, and changes nothing.
#[derive(Clone)]
struct Slow {
    open: watch::Sender<bool>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    asked: usize,
    made: usize,
    nodes: BTreeSet<NodeKey>,
    ended: Vec<NodeKey>,
    /// The answer of each request is lost.
    loses: bool,
    /// So many nodes that are there are not ended when that is asked for.
    clings: usize,
}

impl Slow {
    fn new() -> Self {
        Self { open: watch::Sender::new(false), inner: Arc::default() }
    }

    fn open(&self) {
        self.open.send_replace(true);
    }

    async fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Inner) -> Option<T>) -> T {
        eventually(what, async || look(&self.inner.lock())).await
    }

    /// Waits until all that was asked for was made, and ended.
    async fn has_made_and_ended(&self, n: usize) {
        self.wait_for("late nodes are ended", |i| (i.made == n && i.nodes.is_empty()).then_some(())).await;
    }
}

#[async_trait]
impl Adapter for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            same_machine: true,
            owner_pipe: false,
            sees_exit: false,
            batch: 2,
            typical_boot: Duration::from_secs(1),
        }
    }

    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>> {
        self.inner.lock().asked += requests.len();
        // Its sender is our own.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        let mut inner = self.inner.lock();
        let make = |request: &Request| {
            inner.made += 1;
            inner.nodes.insert(request.key.clone());
            match inner.loses {
                true => Err(AdapterError::Unknown("the answer was lost".into())),
                false => Ok(Node::new(request.key.clone(), "slow")),
            }
        };
        requests.iter().map(make).collect()
    }

    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>> {
        let mut inner = self.inner.lock();
        let end = |key: &NodeKey| {
            inner.ended.push(key.clone());
            if inner.nodes.contains(key) && inner.clings > 0 {
                inner.clings -= 1;
                return Err(AdapterError::Throttled("ask me later".into()));
            }
            inner.nodes.remove(key);
            Ok(Ended::Confirmed)
        };
        keys.iter().map(end).collect()
    }

    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError> {
        let inner = self.inner.lock();
        let ours = inner.nodes.iter().filter(|key| key.fleet == *fleet);
        Ok(ours.map(|key| Node::new(key.clone(), "slow")).collect())
    }

    fn notices(&self, _: &FleetName) -> mpsc::Receiver<Notice> {
        mpsc::channel(1).1
    }
}

/// A fleet that asks again soon where an end is not confirmed.
fn fleet(name: &str, slow: &Slow, deadlines: Deadlines) -> FleetBuilder<Quiet> {
    let deadlines = Deadlines { terminate: Duration::from_millis(20), ..deadlines };
    let name = format!("late-{name}-{}", std::process::id());
    Fleet::quiet().name(name).adapter(slow.clone()).restart(Restart::Temporary).deadlines(deadlines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_is_ended_while_its_node_is_asked_for_ends_with_its_node() {
    let slow = Slow::new();
    let fleet = TestFleet::start(fleet("asked", &slow, Deadlines::default())).await;
    let labor = fleet.start_child().await.unwrap();
    slow.wait_for("it is asked for", |i| (i.asked == 1).then_some(())).await;
    fleet.terminate_child(labor.id());
    // Asked again although it was confirmed: a node that is still to be made has not ended.
    slow.wait_for("its end is asked for again", |i| (i.ended.len() >= 2).then_some(())).await;
    assert_eq!(labor.status().state, LaborState::Terminating);
    assert_eq!(fleet.count_children().await.unwrap().total, 1, "its slot is taken");
    slow.open();
    assert_eq!(within("the end", labor.terminated()).await, Cause::Asked);
    assert_eq!(slow.inner.lock().nodes, BTreeSet::new());
    assert_eq!(slow.inner.lock().made, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_stops_leaves_no_node_that_was_being_made() {
    let slow = Slow::new();
    let fleet = TestFleet::start(fleet("stop", &slow, Deadlines::default())).await;
    let labors = fleet.start_children(3).await.unwrap();
    slow.wait_for("a first batch is asked for", |i| (i.asked == 2).then_some(())).await;
    fleet.terminate_all();
    slow.wait_for("all ends are asked for", |i| (i.ended.len() >= 3).then_some(())).await;
    slow.open();
    fleet.end().await;
    assert_eq!(slow.inner.lock().nodes, BTreeSet::new());
    assert_eq!(slow.inner.lock().made, 2, "the third one was not asked for any more");
    for labor in labors {
        assert_eq!(labor.status().cause, Some(Cause::Asked));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_after_its_labors_lease_is_ended_whatever_its_adapter_answers() {
    for loses in [false, true] {
        let slow = Slow::new();
        (slow.inner.lock().loses, slow.inner.lock().clings) = (loses, 2);
        let ms = Duration::from_millis;
        let deadlines = Deadlines { provision: ms(60), boot: ms(60), ..Deadlines::default() };
        let name = if loses { "lost" } else { "lease" };
        let builder = fleet(name, &slow, deadlines).heartbeat(ms(20)).silence(ms(40)).lease(ms(60));
        let fleet = TestFleet::start(builder).await;
        let labor = fleet.start_child().await.unwrap();
        let cause = Cause::BootTimeout { phase: BootPhase::Provision, after_ms: 60 };
        assert_eq!(within("the end", labor.terminated()).await, cause);
        assert_eq!(fleet.count_children().await.unwrap().total, 0, "its slot is free");
        assert_eq!(slow.inner.lock().asked, 1);
        slow.open();
        slow.has_made_and_ended(1).await;
        assert_eq!(slow.inner.lock().clings, 0, "it was asked again until that was confirmed");
        fleet.end().await;
    }
}
