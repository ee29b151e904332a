//! A suite that takes any adapter and makes, lists and ends nodes with it. Their bootstrap leads
//! nowhere, so that they run and never join. For tests: it panics with what was wrong.
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use overseer_protocol::{
    Bootstrap, Claim, Endpoint, FleetName, Generation, LaborId, OnLeaseLost, Resources, Secret,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Adapter, AdapterError, Ended, Node, NodeKey, Notice, Request};

/// The end of a node that something else brings about than its adapter.
pub type Killed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An adapter to be tested.
pub struct Subject {
    /// The adapter; without nodes.
    pub adapter: Arc<dyn Adapter>,
    /// Kills a node as a crash would; must be there when the adapter sees an exit.
    pub kill: Option<Box<dyn Fn(Node) -> Killed + Send + Sync>>,
    /// How many nodes it has room for, where that is few.
    pub room: Option<usize>,
    /// Where nodes may keep their files, each in a directory of its own, when they are on this
    /// machine.
    pub directory: Option<PathBuf>,
    /// What must live as long as the adapter, such as that directory.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Longest wait for something that must come.
const SOON: Duration = Duration::from_secs(60);
/// Until something that has not come is looked for again.
const AGAIN: Duration = Duration::from_millis(5);

/// Runs the whole suite; `make` gives an adapter without nodes each time, with room for three.
pub async fn run(make: impl AsyncFn() -> Subject) {
    nothing_is_asked_of_nobody(&make().await).await;
    a_node_is_made_once(&make().await).await;
    answers_come_in_order(&make().await).await;
    what_was_never_there_has_ended(&make().await).await;
    a_node_may_be_ended_twice(&make().await).await;
    no_node_is_made_for_a_life_that_was_ended(&make().await).await;
    a_list_is_of_one_fleet(&make().await).await;
    a_whole_batch_is_made_and_ended(&make().await).await;
    what_has_no_room_is_refused_until_there_is_some(&make().await).await;
    an_end_is_noticed_once(&make().await).await;
}

/// Some nodes of one fleet that nobody else has.
struct Scene<'a> {
    subject: &'a Subject,
    fleet: FleetName,
}

impl<'a> Scene<'a> {
    fn new(subject: &'a Subject) -> Self {
        // A provider may serve others at the same time, and know what an earlier run has left.
        let fleet = format!("contract-{:x}", unique()).parse().unwrap();
        Self { subject, fleet }
    }

    fn adapter(&self) -> &'a dyn Adapter {
        &*self.subject.adapter
    }

    fn key(&self) -> NodeKey {
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        let labor = LaborId::new(millis, unique());
        NodeKey { fleet: self.fleet.clone(), labor, generation: Generation::FIRST }
    }

    fn keys(&self, n: usize) -> Vec<NodeKey> {
        (0..n).map(|_| self.key()).collect()
    }

    fn request(&self, key: &NodeKey) -> Request {
        let directory = self.subject.directory.as_ref();
        let token = Secret::new("nobody takes this one".into());
        let bootstrap = Bootstrap {
            format: Bootstrap::FORMAT,
            fleet: key.fleet.clone(),
            // Nobody listens there.
            endpoints: vec![Endpoint::Unix("/nonexistent/overseer.sock".into())],
            // And nobody would be trusted.
            authorities: String::new(),
            release_keys: Vec::new(),
            claim: Claim::Labor { labor: key.labor, generation: key.generation, token },
            lease_ms: 600_000,
            owner: None,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: self.adapter().capabilities().owner_pipe,
            directory: directory.map(|d| d.join(format!("{}-{}", key.labor, key.generation))),
            cache: Default::default(),
            isolation: Default::default(),
            environment: Default::default(),
        };
        Request { key: key.clone(), bootstrap, resources: Resources::default() }
    }

    async fn ask(&self, keys: &[NodeKey]) -> Vec<Result<Node, AdapterError>> {
        let requests: Vec<Request> = keys.iter().map(|key| self.request(key)).collect();
        let answers = self.adapter().provision(&requests).await;
        assert_eq!(answers.len(), keys.len(), "one answer for each request");
        answers
    }

    /// Nodes that must come, each under its own name.
    async fn make(&self, keys: &[NodeKey]) -> Vec<Node> {
        let nodes: Vec<Node> = self.ask(keys).await.into_iter().map(|node| node.unwrap()).collect();
        let answered: Vec<&NodeKey> = nodes.iter().map(|n| &n.key).collect();
        assert_eq!(answered, keys.iter().collect::<Vec<_>>(), "answers in the order of the requests");
        nodes
    }

    /// Asks for the end of nodes until it is confirmed.
    async fn end(&self, keys: &[NodeKey]) {
        let mut left = keys.to_vec();
        eventually("the end of nodes is confirmed", async || {
            let answers = self.adapter().terminate(&left).await;
            assert_eq!(answers.len(), left.len(), "one answer for each key");
            let mut answers = answers.into_iter();
            left.retain(|_| answers.next() != Some(Ok(Ended::Confirmed)));
            left.is_empty()
        })
        .await;
    }

    /// Waits until these nodes and no others are listed: a provider's list may be late.
    async fn lists(&self, nodes: &[Node]) {
        let mut expected = nodes.to_vec();
        expected.sort_by(|a, b| a.key.cmp(&b.key));
        let mut listed = Vec::new();
        let seen = async || {
            listed = self.adapter().list(&self.fleet).await.unwrap();
            listed.sort_by(|a, b| a.key.cmp(&b.key));
            listed == expected
        };
        if !looked_for(seen).await {
            panic!("listed are {listed:?}, not {expected:?}");
        }
    }
}

fn unique() -> u128 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    // Two in one nanosecond, and two processes that run this at the same time, differ.
    (nanos << 16) ^ (u128::from(std::process::id()) << 8) ^ u128::from(COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn looked_for(mut look: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    while !look().await {
        if start.elapsed() > SOON {
            return false;
        }
        tokio::time::sleep(AGAIN).await;
    }
    true
}

async fn eventually(what: &str, look: impl AsyncFnMut() -> bool) {
    assert!(looked_for(look).await, "never seen: {what}");
}

async fn nothing_is_asked_of_nobody(subject: &Subject) {
    let scene = Scene::new(subject);
    assert_eq!(scene.ask(&[]).await, []);
    assert_eq!(scene.adapter().terminate(&[]).await, []);
    scene.lists(&[]).await;
    assert!(scene.adapter().capabilities().batch > 0);
    let name = scene.adapter().name();
    assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name:?}");
}

async fn a_node_is_made_once(subject: &Subject) {
    let scene = Scene::new(subject);
    let key = scene.key();
    let (first, beside) =
        tokio::join!(scene.make(std::slice::from_ref(&key)), scene.make(std::slice::from_ref(&key)));
    assert_eq!(first, beside, "two that ask at the same time get one node");
    assert_eq!(scene.make(std::slice::from_ref(&key)).await, first);
    let twice = scene.make(&[key.clone(), key.clone()]).await;
    assert_eq!(twice, [first.clone(), first.clone()].concat(), "also in one batch");
    scene.lists(&first).await;
    scene.end(&[key]).await;
    scene.lists(&[]).await;
}

async fn answers_come_in_order(subject: &Subject) {
    let scene = Scene::new(subject);
    let mut keys = scene.keys(3);
    keys.reverse();
    let nodes = scene.make(&keys).await;
    let ids: BTreeSet<&str> = nodes.iter().map(|n| n.provider_id.as_str()).collect();
    assert_eq!(ids.len(), nodes.len(), "each node has a name of its own: {nodes:?}");
    // One of them is over: only it is refused.
    scene.end(&keys[1..2]).await;
    let again = scene.ask(&keys).await;
    assert_eq!(again[0], Ok(nodes[0].clone()));
    assert!(matches!(again[1], Err(AdapterError::Invalid(_))), "{again:?}");
    assert_eq!(again[2], Ok(nodes[2].clone()));
    scene.end(&keys).await;
    scene.lists(&[]).await;
}

async fn what_was_never_there_has_ended(subject: &Subject) {
    let scene = Scene::new(subject);
    let keys = scene.keys(2);
    let answers = scene.adapter().terminate(&keys).await;
    assert_eq!(answers, [Ok(Ended::Confirmed), Ok(Ended::Confirmed)]);
    scene.lists(&[]).await;
}

async fn a_node_may_be_ended_twice(subject: &Subject) {
    let scene = Scene::new(subject);
    let keys = scene.keys(2);
    let nodes = scene.make(&keys).await;
    tokio::join!(scene.end(&keys[..1]), scene.end(&keys[..1]));
    assert_eq!(scene.adapter().terminate(&keys[..1]).await, [Ok(Ended::Confirmed)]);
    scene.lists(&nodes[1..]).await;
    // Beside one that runs, and twice in one request.
    scene.end(&[keys[0].clone(), keys[1].clone(), keys[1].clone()]).await;
    scene.lists(&[]).await;
}

async fn no_node_is_made_for_a_life_that_was_ended(subject: &Subject) {
    let scene = Scene::new(subject);
    let life = |key: &NodeKey, generation| NodeKey { generation: Generation(generation), ..key.clone() };
    let refused = async |key: NodeKey| {
        let answer = scene.ask(std::slice::from_ref(&key)).await.remove(0);
        assert!(matches!(answer, Err(AdapterError::Invalid(_))), "{key} was ended: {answer:?}");
    };
    let made = scene.key();
    scene.make(std::slice::from_ref(&made)).await;
    scene.end(std::slice::from_ref(&made)).await;
    refused(made.clone()).await;
    // One whose end came before it.
    let other = scene.key();
    scene.end(&[life(&other, 2)]).await;
    refused(life(&other, 2)).await;
    refused(life(&other, 1)).await;
    scene.lists(&[]).await;
    // The next life of either is another node.
    let next = [life(&made, 2), life(&other, 3)];
    let nodes = scene.make(&next).await;
    scene.lists(&nodes).await;
    scene.end(&next).await;
    scene.lists(&[]).await;
}

async fn a_list_is_of_one_fleet(subject: &Subject) {
    let (ours, theirs) = (Scene::new(subject), Scene::new(subject));
    let (our_keys, their_keys) = (ours.keys(2), theirs.keys(1));
    let our_nodes = ours.make(&our_keys).await;
    let their_nodes = theirs.make(&their_keys).await;
    ours.lists(&our_nodes).await;
    theirs.lists(&their_nodes).await;
    ours.end(&our_keys[..1]).await;
    ours.lists(&our_nodes[1..]).await;
    theirs.lists(&their_nodes).await;
    ours.end(&our_keys).await;
    ours.lists(&[]).await;
    theirs.lists(&their_nodes).await;
    theirs.end(&their_keys).await;
    theirs.lists(&[]).await;
}

async fn a_whole_batch_is_made_and_ended(subject: &Subject) {
    let scene = Scene::new(subject);
    // As many as a test may cost.
    let most = scene.adapter().capabilities().batch.min(16);
    let keys = scene.keys(most.min(subject.room.unwrap_or(most)));
    let nodes = scene.make(&keys).await;
    scene.lists(&nodes).await;
    scene.end(&keys).await;
    scene.lists(&[]).await;
}

async fn what_has_no_room_is_refused_until_there_is_some(subject: &Subject) {
    let Some(room) = subject.room else { return };
    let scene = Scene::new(subject);
    let keys = scene.keys(room);
    scene.make(&keys).await;
    let one_more = scene.key();
    let refused = scene.ask(std::slice::from_ref(&one_more)).await.remove(0);
    assert!(matches!(refused, Err(AdapterError::Capacity(_))), "{refused:?}");
    scene.end(&keys[..1]).await;
    scene.make(std::slice::from_ref(&one_more)).await;
    scene.end(&keys).await;
    scene.end(&[one_more]).await;
    scene.lists(&[]).await;
}

async fn an_end_is_noticed_once(subject: &Subject) {
    if !subject.adapter.capabilities().sees_exit {
        return;
    }
    let kill = subject.kill.as_ref().expect("an adapter that sees exits is tested with kills");
    let (ours, theirs) = (Scene::new(subject), Scene::new(subject));
    let mut told = ours.adapter().notices(&ours.fleet);
    let mut told_them = theirs.adapter().notices(&theirs.fleet);
    let nodes = ours.make(&ours.keys(2)).await;
    let their_nodes = theirs.make(&theirs.keys(1)).await;
    kill(their_nodes[0].clone()).await;
    ended(&mut told_them, &their_nodes[0]).await;
    // That one was not for us, for this is the first that we are told.
    kill(nodes[0].clone()).await;
    ended(&mut told, &nodes[0]).await;
    ours.lists(&nodes[1..]).await;
    ours.end(&[nodes[0].key.clone()]).await;
    // It has ended once, for this is what we are told next.
    kill(nodes[1].clone()).await;
    ended(&mut told, &nodes[1]).await;
    for (scene, nodes) in [(&ours, &nodes), (&theirs, &their_nodes)] {
        scene.lists(&[]).await;
        scene.end(&nodes.iter().map(|n| n.key.clone()).collect::<Vec<_>>()).await;
    }
}

async fn ended(told: &mut mpsc::Receiver<Notice>, node: &Node) {
    let notice = tokio::time::timeout(SOON, told.recv()).await;
    let notice = notice.expect("the end is noticed").expect("the notices go on");
    assert!(
        matches!(&notice, Notice::Ended(key, _) if *key == node.key),
        "{notice:?}, not the end of {node:?}"
    );
}
