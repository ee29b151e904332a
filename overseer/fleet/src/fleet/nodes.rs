//! The slow side of supervision: storing intents, asking the adapter, writing records. Runs in
//! tasks beside the actor and reports back by events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_adapter::{Adapter, AdapterError, Ended, NodeKey, Request};
use overseer_protocol::{
    BootPhase, Bootstrap, Cause, Claim, Endpoint, Isolation, LaborState, OnLeaseLost, ReleaseCache, Resources,
};

use super::actor::FleetMessage;
use super::directories;
use super::record_writer::RecordWriter;
use super::shared::FleetShared;
use crate::cache_directory::labor_cache;
use crate::claims::{Claims, NewClaim, millis};
use crate::clock;
use crate::control_plane::ControlPlane;
use crate::core::{Event, Life};
use crate::labor::LaborShared;
use crate::mailbox::Mailbox;
use crate::records::LaborRecord;
use crate::store::{Operation, StoreError, Transaction};

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
    pub(crate) cache: ReleaseCache,
    pub(crate) isolation: Isolation,
    pub(crate) embedded: bool,
    /// The control plane was made for this fleet and ends with it.
    pub(crate) owns_plane: bool,
    pub(crate) actor: Mailbox<FleetMessage>,
    pub(crate) records: Arc<RecordWriter>,
}

/// How a life is claimed.
pub(super) struct Claiming {
    /// From `now` on.
    pub(super) valid: Duration,
    pub(super) now: SystemTime,
    /// What is stored of the labor.
    pub(super) state: LaborState,
    /// By a machine that no adapter has.
    pub(super) invited: bool,
}

impl Nodes {
    pub(crate) fn key(&self, life: Life) -> NodeKey {
        NodeKey { fleet: self.shared.name.clone(), labor: life.labor, generation: life.generation }
    }

    pub(super) fn report(&self, event: Event) {
        // An actor that has stopped decides no more.
        let _ = self.actor.cast(FleetMessage::Event(event));
    }

    /// Intent first, then the adapter, in batches. Whatever the adapter answers for a life that
    /// is over by then, its node is ended (again), for the first order may have come before it.
    pub(crate) async fn provision(self: &Arc<Self>, lives: Vec<Life>) {
        let batch = self.adapter.capabilities().batch.clamp(1, INTENTS);
        let mut again = Vec::new();
        for lives in lives.chunks(batch) {
            let intents = match self.intend_when_possible(lives).await {
                Ok(intents) => intents,
                Err(error) => {
                    for life in lives {
                        let reason = format!("the intent could not be stored: {error}");
                        let cause = Cause::BootFailed { phase: BootPhase::Provision, reason };
                        self.report(Event::Refused { life: *life, cause, retryable: true });
                    }
                    continue;
                }
            };
            if intents.is_empty() {
                continue;
            }
            let (asked, requests): (Vec<Asked>, Vec<Request>) = intents.into_iter().unzip();
            let answers = self.adapter.provision(&requests).await;
            let mut late = Vec::new();
            for (asked, answer) in asked.into_iter().zip(answers.into_iter().chain(unanswered())) {
                let life = asked.life;
                if asked.answered_too_late() {
                    late.push(life);
                    continue;
                }
                match answer {
                    Ok(node) => {
                        self.records.node(life.labor, node.provider_id);
                        self.report(Event::Accepted(life));
                    }
                    // Asked again when there are some: it is no fault of this life.
                    Err(error) if self.shared.condition.lacks_files() => {
                        tracing::debug!(labor = %life.labor, %error, "no node without file descriptors");
                        again.push(life);
                    }
                    Err(error) => self.report(refused(life, &error)),
                }
            }
            if !late.is_empty() {
                tokio::spawn(Arc::clone(self).end_late(late));
            }
        }
        if !again.is_empty() {
            Box::pin(self.provision(again)).await;
        }
    }

    /// As [`Nodes::intend`], but not while the disk is full or no file descriptor is free, which is no
    /// fault of these lives. Who wants them no more says so meanwhile.
    async fn intend_when_possible(&self, lives: &[Life]) -> Result<Vec<(Asked, Request)>, StoreError> {
        let condition = &self.shared.condition;
        loop {
            condition.startable().await;
            let is_present = |life: &Life| self.shared.present(life.labor, life.generation).is_some();
            let present: Vec<Life> = lives.iter().copied().filter(is_present).collect();
            match self.intend(&present).await {
                Err(StoreError::NotWritable { .. }) if condition.pauses().is_some() => {}
                done => return done,
            }
        }
    }

    /// Stores what is about to be asked for. A life whose end has begun by now is left out.
    async fn intend(&self, lives: &[Life]) -> Result<Vec<(Asked, Request)>, StoreError> {
        // What ends a life from here on is written after its intent.
        let _writing = self.records.hold().await;
        let mut transaction = Transaction::new();
        let mut requests = Vec::with_capacity(lives.len());
        let deadlines = &self.shared.options.deadlines;
        let claiming = Claiming {
            valid: deadlines.provision + deadlines.boot,
            now: clock::now(),
            state: LaborState::Requested,
            invited: false,
        };
        for life in lives {
            let (operations, claim) = self.claim(*life, &claiming);
            let Some(labor) = self.shared.present(life.labor, life.generation) else {
                // Whoever ended it may have removed the record before this one was taken.
                self.records.forget(life.labor);
                continue;
            };
            let asked = Asked::begin(labor, *life);
            if !asked.is_wanted() {
                // Its end removes the record, or its next life replaces it.
                continue;
            }
            transaction.operations.extend(operations);
            let (key, bootstrap) = (self.key(*life), self.bootstrap(*life, claim));
            requests.push((asked, Request { key, bootstrap, resources: self.resources.clone() }));
        }
        if requests.is_empty() {
            return Ok(requests);
        }
        self.plane.store().transact(transaction).await?;
        Ok(requests)
    }

    /// The record of a life and its claim, to be stored together before anybody has the claim.
    /// Needs the writer's hold.
    pub(super) fn claim(&self, life: Life, claiming: &Claiming) -> ([Operation; 2], Claim) {
        let Claiming { valid, now, state, invited } = *claiming;
        let key = self.key(life);
        let NewClaim { claim, operation } = Claims::issue(&key, valid, now, crate::random::bytes());
        let record = LaborRecord {
            fleet: key.fleet,
            labor: key.labor,
            generation: key.generation,
            adapter: self.adapter.name().to_owned(),
            state,
            node: None,
            unwanted: invited,
            invited: invited.then(|| millis(now + valid)),
            cause: None,
            updated_ms: millis(now),
        };
        let put = record.put();
        self.records.seed(record);
        ([put, operation], claim)
    }

    /// For a node of the adapter's.
    fn bootstrap(&self, life: Life, claim: Claim) -> Bootstrap {
        let capabilities = self.adapter.capabilities();
        let reachable = |e: &&Endpoint| capabilities.same_machine || matches!(e, Endpoint::Tcp(_));
        let endpoints = self.plane.endpoints().iter().filter(reachable).cloned().collect();
        let mut cache = self.cache.clone();
        if capabilities.same_machine && cache.directory.is_none() {
            // All labors of this user share it, whoever their Overseer is.
            cache.directory = labor_cache().or_else(|| Some(self.plane.directory().join("cache")));
        }
        Bootstrap {
            cache,
            owner_pipe: self.embedded && capabilities.owner_pipe,
            // On this machine it goes away with the control plane's own directory, at the latest.
            directory: capabilities.same_machine.then(|| directories::of(self.plane.directory(), life)),
            ..self.document(claim, endpoints)
        }
    }

    /// For whoever calls at these endpoints, and lives by the lease.
    pub(super) fn document(&self, claim: Claim, endpoints: Vec<Endpoint>) -> Bootstrap {
        let authorities = self.plane.authorities();
        Bootstrap {
            format: Bootstrap::FORMAT,
            fleet: self.shared.name.clone(),
            endpoints,
            authorities: authorities.bundle().to_owned(),
            owner: Some(authorities.owner()),
            release_keys: self.release_keys.clone(),
            claim,
            lease_ms: self.shared.options.lease.as_millis() as u64,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: false,
            directory: None,
            cache: self.cache.clone(),
            isolation: self.isolation.clone(),
            environment: self.environment.clone(),
        }
    }

    /// Asks the adapter to end nodes, once; the core asks again where that is not confirmed.
    pub(crate) async fn terminate(&self, lives: Vec<Life>) {
        let asked_for: Vec<bool> = lives.iter().map(|life| self.is_asked_for(*life)).collect();
        let keys: Vec<NodeKey> = lives.iter().map(|l| self.key(*l)).collect();
        let answers = self.adapter.terminate(&keys).await;
        let answers = answers.into_iter().chain(unanswered());
        for ((life, asked_for), answer) in lives.into_iter().zip(asked_for).zip(answers) {
            match answer {
                // Nothing was there, and it may be made yet: `provision` ends it then.
                Ok(Ended::Confirmed) if asked_for => {}
                Ok(Ended::Confirmed) => self.report(Event::Ended(life, Cause::Asked)),
                Ok(Ended::Pending) => {}
                Err(error) => {
                    tracing::warn!(labor = %life.labor, %error, "the node could not be ended; trying again");
                    self.report(Event::TerminateFailed(life));
                }
            }
        }
    }

    /// Whether the adapter has not answered yet for the node of this life, whose end has begun.
    fn is_asked_for(&self, life: Life) -> bool {
        let Some(labor) = self.shared.labors.read().get(&life.labor).cloned() else { return false };
        let mut asked_for = labor.asked_for.lock();
        asked_for.get_mut(&life.generation).map(|ending| *ending = true).is_some()
    }

    /// Ends nodes that came when their life was over, until that is confirmed: nobody else
    /// knows of them.
    pub(crate) async fn end_late(self: Arc<Self>, mut lives: Vec<Life>) {
        for tries in 1u32.. {
            let keys: Vec<NodeKey> = lives.iter().map(|l| self.key(*l)).collect();
            let answers = self.adapter.terminate(&keys).await;
            let mut left = Vec::new();
            for (life, answer) in lives.into_iter().zip(answers.into_iter().chain(unanswered())) {
                match answer {
                    Ok(Ended::Confirmed) => self.report(Event::Ended(life, Cause::Asked)),
                    Ok(Ended::Pending) => left.push(life),
                    Err(error) => {
                        tracing::warn!(labor = %life.labor, %error, "a late node could not be ended; trying again");
                        left.push(life);
                    }
                }
            }
            if left.is_empty() {
                return;
            }
            lives = left;
            // As patient as the core is with its own.
            tokio::time::sleep(self.shared.options.deadlines.terminate * tries.clamp(1, 12)).await;
        }
    }
}

/// A life whose node the adapter is being asked for. While this lives, the confirmed end of a
/// node that nobody has seen is no end.
struct Asked {
    labor: Arc<LaborShared>,
    life: Life,
}

impl Asked {
    fn begin(labor: Arc<LaborShared>, life: Life) -> Self {
        labor.asked_for.lock().insert(life.generation, false);
        Self { labor, life }
    }

    /// Whether nobody has begun to end it. Who does so from here on finds that it is asked for.
    fn is_wanted(&self) -> bool {
        let status = self.labor.status.borrow();
        status.generation == self.life.generation && status.state == LaborState::Requested
    }

    /// The adapter has answered: whether the life is over, or its end was asked for meanwhile.
    /// An end that is asked for after this finds the node.
    fn answered_too_late(self) -> bool {
        let ending = self.labor.asked_for.lock().remove(&self.life.generation);
        let status = self.labor.status.borrow();
        let over = status.generation != self.life.generation
            || matches!(status.state, LaborState::Backoff | LaborState::Terminated);
        over || ending == Some(true)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.labor.asked_for.lock().remove(&self.life.generation);
    }
}

/// What is missing when an adapter answers fewer than it was asked.
fn unanswered<T>() -> impl Iterator<Item = Result<T, AdapterError>> {
    std::iter::repeat_with(|| Err(AdapterError::Unknown("the adapter has not answered".into())))
}

fn refused(life: Life, error: &AdapterError) -> Event {
    let cause = Cause::AdapterError { reason: error.to_string() };
    Event::Refused { life, cause, retryable: error.is_retryable() }
}
