//! The slow side of supervision: storing intents, asking the adapter, writing records. Runs in
//! tasks beside the actor and reports back by events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use overseer_adapter::{Adapter, AdapterError, Ended, NodeKey, Request};
use overseer_protocol::{
    BootPhase, Bootstrap, Cause, Claim, Endpoint, LaborId, LaborState, OnLeaseLost, Resources,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::actor::FleetMessage;
use super::shared::FleetShared;
use crate::claims::{Claims, NewClaim};
use crate::control_plane::ControlPlane;
use crate::core::{Event, Life};
use crate::records::LaborRecord;
use crate::store::{StoreError, Transaction};

/// Labors whose intent goes into one transaction: a record and a claim each.
const INTENTS: usize = 60;

/// Everything that bringing up and ending nodes needs.
pub(crate) struct Nodes {
    pub(crate) plane: ControlPlane,
    pub(crate) shared: Arc<FleetShared>,
    pub(crate) adapter: Arc<dyn Adapter>,
    pub(crate) resources: Resources,
    pub(crate) release_keys: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) embedded: bool,
    /// The control plane was made for this fleet and ends with it.
    pub(crate) owns_plane: bool,
    pub(crate) actor: ractor::ActorRef<FleetMessage>,
    pub(crate) ledger: Records,
}

impl Nodes {
    pub(crate) fn key(&self, life: Life) -> NodeKey {
        NodeKey { fleet: self.shared.name.clone(), labor: life.labor, generation: life.generation }
    }

    fn report(&self, event: Event) {
        // An actor that has stopped has ended its nodes.
        let _ = self.actor.cast(FleetMessage::Event(event));
    }

    /// Intent first, then the adapter, in batches.
    pub(crate) async fn provision(&self, lives: Vec<Life>) {
        let batch = self.adapter.capabilities().batch.clamp(1, INTENTS);
        for lives in lives.chunks(batch) {
            match self.intend(lives).await {
                Ok(requests) => {
                    let answers = self.adapter.provision(&requests).await;
                    for (life, answer) in lives.iter().zip(answers) {
                        match answer {
                            Ok(node) => {
                                self.ledger.node(life.labor, node.provider_id);
                                self.report(Event::Accepted(*life));
                            }
                            Err(error) => self.report(refused(*life, &error)),
                        }
                    }
                }
                Err(error) => {
                    for life in lives {
                        let reason = format!("the intent could not be stored: {error}");
                        let cause = Cause::BootFailed { phase: BootPhase::Provision, reason };
                        self.report(Event::Refused { life: *life, cause, retryable: true });
                    }
                }
            }
        }
    }

    async fn intend(&self, lives: &[Life]) -> Result<Vec<Request>, StoreError> {
        let now = SystemTime::now();
        let mut transaction = Transaction::new();
        let mut requests = Vec::with_capacity(lives.len());
        let deadlines = &self.shared.options.deadlines;
        let valid = deadlines.provision + deadlines.boot;
        for life in lives {
            let key = self.key(*life);
            let NewClaim { claim, operation } = Claims::issue(&key, valid, now, crate::random::bytes());
            let record = LaborRecord {
                fleet: key.fleet.clone(),
                labor: key.labor,
                generation: key.generation,
                adapter: self.adapter.name().to_owned(),
                state: LaborState::Requested,
                node: None,
                cause: None,
                updated_ms: millis(now),
            };
            transaction.operations.extend([record.put(), operation]);
            self.ledger.seed(record);
            let bootstrap = self.bootstrap(*life, claim);
            requests.push(Request { key, bootstrap, resources: self.resources.clone() });
        }
        self.plane.store().transact(transaction).await?;
        Ok(requests)
    }

    fn bootstrap(&self, life: Life, claim: Claim) -> Bootstrap {
        let capabilities = self.adapter.capabilities();
        let reachable = |e: &&Endpoint| capabilities.same_machine || matches!(e, Endpoint::Tcp(_));
        Bootstrap {
            format: Bootstrap::FORMAT,
            fleet: self.shared.name.clone(),
            endpoints: self.plane.endpoints().iter().filter(reachable).cloned().collect(),
            authorities: self.plane.authorities(),
            release_keys: self.release_keys.clone(),
            claim,
            lease_ms: self.shared.options.lease.as_millis() as u64,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: self.embedded && capabilities.owner_pipe,
            // On this machine it goes away with the control plane's own directory, at the latest.
            directory: capabilities.same_machine.then(|| {
                let name = format!("{}-{}", life.labor, life.generation);
                self.plane.directory().join("labors").join(name)
            }),
            environment: self.environment.clone(),
        }
    }

    pub(crate) async fn terminate(&self, lives: Vec<Life>) {
        let keys: Vec<NodeKey> = lives.iter().map(|l| self.key(*l)).collect();
        let answers = self.adapter.terminate(&keys).await;
        for (life, answer) in lives.into_iter().zip(answers) {
            match answer {
                Ok(Ended::Confirmed) => self.report(Event::Ended(life, Cause::Asked)),
                Ok(Ended::Pending) => {}
                Err(error) => {
                    tracing::warn!(labor = %life.labor, %error, "the node could not be ended; trying again");
                    self.report(Event::TerminateFailed(life));
                }
            }
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn refused(life: Life, error: &AdapterError) -> Event {
    let cause = Cause::AdapterError { reason: error.to_string() };
    Event::Refused { life, cause, retryable: error.is_retryable() }
}

/// The latest record of each labor, written behind the actor: only the newest state of a labor
/// waits, so the number of labors bounds it.
pub(crate) struct Records {
    waiting: Mutex<BTreeMap<LaborId, Change>>,
    latest: Mutex<BTreeMap<LaborId, LaborRecord>>,
    changed: Notify,
}

enum Change {
    Put,
    Delete(LaborRecord),
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), latest: Mutex::default(), changed: Notify::new() }
    }

    fn seed(&self, record: LaborRecord) {
        self.latest.lock().insert(record.labor, record);
    }

    fn node(&self, labor: LaborId, provider_id: String) {
        self.change(labor, |record| record.node = Some(provider_id));
    }

    pub(crate) fn enter(&self, life: Life, state: LaborState, cause: Option<Cause>) {
        self.change(life.labor, |record| {
            (record.generation, record.state, record.cause) = (life.generation, state, cause);
        });
    }

    fn change(&self, labor: LaborId, change: impl FnOnce(&mut LaborRecord)) {
        if let Some(record) = self.latest.lock().get_mut(&labor) {
            change(record);
            record.updated_ms = millis(SystemTime::now());
            self.waiting.lock().insert(labor, Change::Put);
            self.changed.notify_one();
        }
    }

    pub(crate) fn forget(&self, labor: LaborId) {
        if let Some(record) = self.latest.lock().remove(&labor) {
            self.waiting.lock().insert(labor, Change::Delete(record));
            self.changed.notify_one();
        }
    }

    /// Writes what waits, until nothing does.
    pub(crate) async fn flush(&self, plane: &ControlPlane) -> Result<(), StoreError> {
        loop {
            let changes: Vec<(LaborId, Change)> = {
                let mut waiting = self.waiting.lock();
                let take: Vec<LaborId> = waiting.keys().take(INTENTS).copied().collect();
                take.into_iter().filter_map(|l| waiting.remove(&l).map(|c| (l, c))).collect()
            };
            if changes.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::new();
            for (labor, change) in changes {
                match change {
                    Change::Delete(record) => {
                        transaction = transaction.delete(record.key());
                        transaction.operations.push(Claims::forget(labor));
                    }
                    Change::Put => {
                        if let Some(record) = self.latest.lock().get(&labor) {
                            transaction.operations.push(record.put());
                        }
                    }
                }
            }
            plane.store().transact(transaction).await?;
        }
    }

    /// Writes for as long as the fleet lives.
    pub(crate) async fn run(&self, plane: ControlPlane) {
        loop {
            self.changed.notified().await;
            if let Err(error) = self.flush(&plane).await {
                tracing::error!(%error, "the state of labors could not be stored");
            }
        }
    }
}
