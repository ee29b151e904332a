//! What the server before this one has left: read from the store, held against what the adapter
//! has, before the fleet takes anything up.

use std::collections::BTreeMap;
use std::time::Duration;

use overseer_adapter::{Adapter, AdapterError, Node, NodeKey};
use overseer_protocol::{Cause, FleetName};

use crate::control_plane::ControlPlane;
use crate::core::{Found, Life};
use crate::records::{LaborRecord, RecordError};

/// How often an adapter that cannot say what it has is asked again.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Labors to take over.
    pub(crate) labors: Vec<(LaborRecord, Found)>,
    /// Nodes that no record knows: they are ended.
    pub(crate) strangers: Vec<Life>,
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The adapter cannot say what it has.
    #[error(
        "adapter {adapter} cannot list the nodes of fleet {fleet}: {source}; mend that, then start again"
    )]
    Adapter {
        /// Its name.
        adapter: &'static str,
        /// The fleet.
        fleet: FleetName,
        /// What it said.
        source: AdapterError,
    },
}

impl RecoveryError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Records(error) => error.code(),
            Self::Adapter { .. } => "fleet.no_inventory",
        }
    }
}

/// Looks for everything of a fleet that may be left.
pub(crate) async fn look(
    plane: &ControlPlane,
    adapter: &dyn Adapter,
    fleet: &FleetName,
) -> Result<Left, RecoveryError> {
    if plane.is_ephemeral() {
        // It was made just now, and ends with us.
        return Ok(Left::default());
    }
    let records = plane.records().all(Some(fleet), |record| record).await?;
    let mut nodes = inventory(adapter, fleet).await?;
    let owner = plane.owner();
    nodes.retain(|node| node.may_be_of(&owner));
    adapter.adopt(&nodes).await;
    let mut there: BTreeMap<NodeKey, Node> = nodes.into_iter().map(|node| (node.key.clone(), node)).collect();
    let mut left = Left::default();
    for record in records {
        let key = NodeKey { fleet: fleet.clone(), labor: record.labor, generation: record.generation };
        let node = there.remove(&key);
        let cause = record.cause.as_ref();
        let found = match plane.is_embedded() {
            // Its labors end with the process; whoever starts anew starts its own.
            true => Found::Ending(Cause::OwnerLost),
            // No adapter knows of a machine that was invited: its lease and its session tell.
            false => Found::of(record.state, cause, node.is_some() || record.invited.is_some()),
        };
        left.labors.push((record, found));
    }
    left.strangers = there.keys().map(Life::from).collect();
    Ok(left)
}

async fn inventory(adapter: &dyn Adapter, fleet: &FleetName) -> Result<Vec<Node>, RecoveryError> {
    for tries in 1.. {
        match adapter.list(fleet).await {
            Ok(nodes) => return Ok(nodes),
            Err(source) if tries == TRIES => {
                return Err(RecoveryError::Adapter { adapter: adapter.name(), fleet: fleet.clone(), source });
            }
            Err(error) => tracing::warn!(%fleet, %error, "the adapter cannot list its nodes; asking again"),
        }
        tokio::time::sleep(BETWEEN * tries).await;
    }
    Ok(Vec::new())
}
