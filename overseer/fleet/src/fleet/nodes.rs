//! The slow side of supervision: storing intents, asking the adapter, writing records. Runs in
//! tasks beside the actor and reports back by events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use overseer_adapter::{Adapter, AdapterError, Ended, NodeKey, Request};
use overseer_protocol::{BootPhase, Bootstrap, Cause, Claim, Endpoint, LaborState, OnLeaseLost, Resources};

use super::actor::FleetMessage;
use super::record_writer::{RecordWriter, millis};
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
    pub(crate) records: RecordWriter,
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
                Ok(intents) => {
                    let (lives, requests): (Vec<Life>, Vec<Request>) = intents.into_iter().unzip();
                    let answers = self.adapter.provision(&requests).await;
                    for (life, answer) in lives.into_iter().zip(answers) {
                        match answer {
                            Ok(node) => {
                                self.records.node(life.labor, node.provider_id);
                                self.report(Event::Accepted(life));
                            }
                            Err(error) => self.report(refused(life, &error)),
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

    /// Stores what is about to be asked for. A life that is over by now is left out: whoever
    /// ended it found nothing to remove.
    async fn intend(&self, lives: &[Life]) -> Result<Vec<(Life, Request)>, StoreError> {
        // What ends a life from here on is written after its intent.
        let _writing = self.records.hold().await;
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
            let put = record.put();
            self.records.seed(record);
            if self.shared.present(life.labor, life.generation).is_none() {
                self.records.unseed(life.labor);
                continue;
            }
            transaction.operations.extend([put, operation]);
            let bootstrap = self.bootstrap(*life, claim);
            requests.push((*life, Request { key, bootstrap, resources: self.resources.clone() }));
        }
        if requests.is_empty() {
            return Ok(requests);
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

fn refused(life: Life, error: &AdapterError) -> Event {
    let cause = Cause::AdapterError { reason: error.to_string() };
    Event::Refused { life, cause, retryable: error.is_retryable() }
}
