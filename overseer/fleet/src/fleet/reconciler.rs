//! Holds the fleet against its adapter's inventory, its sessions and its records, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::{Cause, LaborState};
use parking_lot::Mutex;
use tonic::Status;

use super::FleetMessage;
use super::nodes::Nodes;
use super::recovery::RecoveryError;
use crate::core::{Care, Event, Finding, Inventory, Life, Pass, Reconciler};
use crate::labor::LaborShared;
use crate::mailbox::Mailbox;
use crate::metrics::one;

/// The reconciler of one fleet.
pub(crate) struct Reconciling {
    nodes: Arc<Nodes>,
    actor: Mailbox<FleetMessage>,
    reconciler: Mutex<Reconciler>,
    /// One pass at a time.
    passing: tokio::sync::Mutex<()>,
}

impl Reconciling {
    pub(crate) fn new(nodes: Arc<Nodes>, actor: Mailbox<FleetMessage>) -> Self {
        let (reconciler, passing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { nodes, actor, reconciler, passing }
    }

    /// For as long as the fleet lives.
    pub(crate) async fn run(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            match self.pass(false).await {
                Ok(pass) => {
                    if let Some((ends, of)) = pass.braked {
                        let fleet = &self.nodes.shared.name;
                        tracing::error!(%fleet, ends, of, "too much would be ended at once; look at it with a dry run, then force it");
                    }
                }
                Err(error) => tracing::warn!(%error, "the fleet could not be reconciled; trying again"),
            }
        }
    }

    /// What does not fit right now; nothing is done or remembered.
    pub(crate) async fn look(&self) -> Result<Vec<Finding>, RecoveryError> {
        Ok(Reconciler::look(&self.inventory().await?))
    }

    /// One pass: acts on what was seen often enough.
    pub(crate) async fn pass(&self, force: bool) -> Result<Pass, RecoveryError> {
        let _alone = self.passing.lock().await;
        let metrics = &self.nodes.shared.metrics;
        let passed = self.pass_alone(force).await;
        match &passed {
            Ok(pass) => {
                metrics.passes.add("done");
                pass.found.iter().for_each(|finding| metrics.found(finding));
                if pass.braked.is_some() {
                    one(&metrics.brakes);
                }
            }
            Err(_) => metrics.passes.add("failed"),
        }
        passed
    }

    async fn pass_alone(&self, force: bool) -> Result<Pass, RecoveryError> {
        let inventory = self.inventory().await?;
        let pass = self.reconciler.lock().pass(&inventory, &Care::default(), force);
        for finding in &pass.act {
            tracing::warn!(fleet = %self.nodes.shared.name, ?finding, "does not fit, and is put right");
            self.act(finding).await?;
        }
        Ok(pass)
    }

    async fn inventory(&self) -> Result<Inventory, RecoveryError> {
        let shared = &self.nodes.shared;
        let list = self.nodes.adapter.list(&shared.name).await;
        let nodes = list.map_err(|source| RecoveryError::Adapter {
            adapter: self.nodes.adapter.name(),
            fleet: shared.name.clone(),
            source,
        })?;
        let records = self.nodes.plane.records().all(Some(&shared.name), |record| record.life()).await?;
        let records = BTreeSet::from_iter(records);
        // Last, so that what has begun since is known.
        let labors: BTreeMap<Life, LaborState> = ask(&self.actor).await.unwrap_or_default();
        let asked_for = {
            let all = shared.labors.read();
            let of = |labor: &Arc<LaborShared>| {
                let generations: Vec<_> = labor.asked_for.lock().keys().copied().collect();
                let labor = labor.id;
                generations.into_iter().map(move |generation| Life { labor, generation })
            };
            all.values().flat_map(of).collect()
        };
        let sessions = shared.sessions.lock().values().map(|session| session.life).collect();
        let invited = {
            let all = shared.labors.read();
            let all = all.values().filter(|labor| labor.invited);
            all.map(|labor| Life { labor: labor.id, generation: labor.status.borrow().generation }).collect()
        };
        let owner = self.nodes.plane.owner();
        let ours = nodes.into_iter().filter(|node| node.may_be_of(&owner));
        let nodes = ours.map(|node| Life::from(&node.key)).collect();
        Ok(Inventory { labors, nodes, asked_for, sessions, records, invited })
    }

    async fn act(&self, finding: &Finding) -> Result<(), RecoveryError> {
        match finding {
            Finding::IntentWithoutMachine(life) => {
                let reason = "the adapter has no such node any more".to_owned();
                let ended = Event::Ended(*life, Cause::AdapterError { reason });
                let _ = self.actor.cast(FleetMessage::Event(ended));
            }
            Finding::MachineWithoutIntent(life) => {
                let key = self.nodes.key(*life);
                for answer in self.nodes.adapter.terminate(&[key]).await {
                    if let Err(error) = answer {
                        tracing::warn!(labor = %life.labor, %error, "a node that nobody knows could not be ended; trying again");
                    }
                }
            }
            Finding::SessionWithoutLabor(life) => {
                let status = Status::permission_denied("this life of the labor is over");
                self.nodes.shared.close_sessions(*life, None, Cause::OwnerLost, Some(status));
            }
            Finding::RecordWithoutLabor(life) => {
                self.nodes.plane.records().remove(&self.nodes.shared.name, life.labor).await?;
            }
        }
        Ok(())
    }
}

async fn ask(actor: &Mailbox<FleetMessage>) -> Option<BTreeMap<Life, LaborState>> {
    let (send, receive) = ractor::concurrency::oneshot();
    actor.cast(FleetMessage::Lives(send.into())).ok()?;
    receive.await.ok()
}
