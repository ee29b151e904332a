//! How nodes come and go: the [`Adapter`] trait, and [`mock`], an adapter whose faults are chosen.
//!
//! An adapter knows machines and nothing of supervision: it is asked for nodes, told to end
//! them, lists what is ours, and says by itself when one goes. One of your own proves itself with
//! the suite that the feature `contract` brings.

/// What every [`Adapter`] must do, as a suite of tests.
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod mock;
mod over;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use overseer_protocol::{Bootstrap, Cause, FleetName, Generation, LaborId, Resources};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use over::Over;

/// One life of one labor: the name of a node to an adapter, carried by the node as a tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeKey {
    /// Its fleet.
    pub fleet: FleetName,
    /// The labor.
    pub labor: LaborId,
    /// Its life.
    pub generation: Generation,
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.fleet, self.labor, self.generation)
    }
}

/// Why a tag names no node of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a node: expected FLEET/LABOR/GENERATION")]
pub struct NotANodeKey(pub String);

impl NotANodeKey {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "id.no_node"
    }
}

impl FromStr for NodeKey {
    type Err = NotANodeKey;

    /// Reads back what it prints.
    fn from_str(text: &str) -> Result<Self, NotANodeKey> {
        let read = || {
            let (fleet, rest) = text.split_once('/')?;
            let (labor, generation) = rest.split_once('/')?;
            let generation = Generation(generation.parse().ok()?);
            Some(Self { fleet: fleet.parse().ok()?, labor: labor.parse().ok()?, generation })
        };
        // Another spelling would be another tag.
        read()
            .filter(|key| key.to_string() == text)
            .ok_or_else(|| NotANodeKey(text.chars().take(128).collect()))
    }
}

/// A node that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name; asking twice for one name gives one node.
    pub key: NodeKey,
    /// What the node is told.
    pub bootstrap: Bootstrap,
    /// What it should have.
    pub resources: Resources,
}

/// A node that exists, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub key: NodeKey,
    /// The provider's name of it, such as a process id or an instance id.
    pub provider_id: String,
    /// Whose node it is, by its tag: the [owner](Bootstrap::owner) of the bootstrap document that
    /// it was made with. Others may have a fleet of the same name at the same provider, and their
    /// nodes are none of ours. None from an adapter that has nodes of one Overseer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Node {
    /// Of an adapter that has nodes of one Overseer only.
    pub fn new(key: NodeKey, provider_id: impl Into<String>) -> Self {
        Self { key, provider_id: provider_id.into(), owner: None }
    }

    /// Whether it may be a node of that owner.
    pub fn may_be_of(&self, owner: &str) -> bool {
        self.owner.as_deref().is_none_or(|of| of == owner)
    }
}

/// Whether a node has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is gone for sure, or never was.
    Confirmed,
    /// The provider has taken the order; a [`Notice::Ended`] or another `terminate` confirms it.
    Pending,
}

/// What an adapter says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The node has ended.
    Ended(NodeKey, Cause),
    /// The node will end: spot reclaim or maintenance.
    Going {
        /// Which.
        key: NodeKey,
        /// Why.
        cause: Cause,
        /// In how long, where known.
        within: Option<Duration>,
    },
}

/// What an adapter can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Nodes are on this machine and reach the Overseer by a unix socket.
    pub same_machine: bool,
    /// Nodes die with the Overseer when `owner_pipe` is set in their bootstrap.
    pub owner_pipe: bool,
    /// The end of a node is noticed at once and said by a [`Notice`].
    pub sees_exit: bool,
    /// Most requests in one `provision`.
    pub batch: usize,
    /// How long a node may be expected to take until it joins.
    pub typical_boot: Duration,
}

/// Why an adapter could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// The provider has no room now; another try later may do.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// The provider asks for fewer requests.
    #[error("throttled: {0}")]
    Throttled(String),
    /// It may or may not have been done: nothing came back.
    #[error("unknown outcome: {0}")]
    Unknown(String),
    /// It will not work however often it is tried.
    #[error("{0}")]
    Invalid(String),
}

impl AdapterError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Capacity(_) => "adapter.capacity",
            Self::Throttled(_) => "adapter.throttled",
            Self::Unknown(_) => "adapter.unknown",
            Self::Invalid(_) => "adapter.invalid",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }
}

/// How nodes come and go. Every method may take long and is called outside of any actor.
#[async_trait]
pub trait Adapter: Send + Sync + 'static {
    /// Short name, such as `local`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Asks for nodes; one answer for each request, in order. Idempotent by key: a node that
    /// exists is answered, not made again.
    async fn provision(&self, requests: &[Request]) -> Vec<Result<Node, AdapterError>>;

    /// Ends nodes at once; one answer for each key, in order. Idempotent: an unknown key is
    /// [`Ended::Confirmed`], and a later `provision` of that life or of one before it is refused
    /// as [`AdapterError::Invalid`]; [`Over`] remembers them.
    async fn terminate(&self, keys: &[NodeKey]) -> Vec<Result<Ended, AdapterError>>;

    /// The nodes of a fleet that exist, by their tag, whoever started them: also those of another
    /// Overseer with a fleet of that name, with their owner.
    ///
    /// # Errors
    /// When the provider cannot be asked; never an incomplete list.
    async fn list(&self, fleet: &FleetName) -> Result<Vec<Node>, AdapterError>;

    /// Nodes that [`Adapter::list`] has found and a process before this one has started are this
    /// one's from now on: their ends are told by notices, as those of its own are. An adapter that
    /// sees no exit has nothing to do.
    async fn adopt(&self, nodes: &[Node]) {
        let _ = nodes;
    }

    /// Everything of this machine that may still use the directory that it was given, of whatever
    /// fleet and Overseer. None where that cannot be said: then no directory is removed.
    async fn at_work_here(&self) -> Option<BTreeSet<NodeKey>> {
        None
    }

    /// The stream of notices for one fleet. Bounded: an adapter waits for room.
    fn notices(&self, fleet: &FleetName) -> mpsc::Receiver<Notice>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_name_is_read_back_and_nothing_else_is_one() {
        let key = NodeKey {
            fleet: "farm".parse().unwrap(),
            labor: LaborId::new(1_700_000_000_000, 42),
            generation: Generation(7),
        };
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key.clone()));
        let (fleet_and_labor, _) = text.rsplit_once('/').unwrap();
        for bad in
            ["", "farm", "farm/x/1", fleet_and_labor, &format!("{text}/1"), &format!("{fleet_and_labor}/+7")]
        {
            assert_eq!(bad.parse::<NodeKey>(), Err(NotANodeKey(bad.into())));
        }
    }
}
