//! The shell around [`FleetCore`]: feeds events in, carries effects out, and waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use overseer_adapter::Notice;
use overseer_protocol::proto::{self, order};
use overseer_protocol::{Cause, LaborId, LaborState, SessionId};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::handler::Told;
use super::invitation::{Invitation, Invite, InviteError};
use super::nodes::Nodes;
use super::reconciler::Reconciling;
use super::recovery::Left;
use super::said;
use super::shared::FleetShared;
use super::upgrade::Upgrade;
use crate::callbacks::FleetEvent;
use crate::claims::millis;
use crate::clock;
use crate::condition::Condition;
use crate::core::{
    AtCapacity, Effect, Event, FleetCore, Found, Happening, Life, Millis, NoUpgrade, TaskEvent,
    UpgradeStatus, WhatNext,
};
use crate::labor::{Labor, LaborShared};
use crate::mailbox::Mailbox;
use crate::metrics::one;
use crate::session::Session;

/// How often calls that break their deadlines are looked for.
const SWEEP: Duration = Duration::from_secs(1);

pub(crate) enum FleetMessage {
    Event(Event),
    Start(usize, RpcReplyPort<Result<Vec<Labor>, AtCapacity>>),
    Invite(Invite, RpcReplyPort<Result<Invitation, InviteError>>),
    Upgrade(Box<Upgrade>, RpcReplyPort<Result<watch::Receiver<UpgradeStatus>, NoUpgrade>>),
    /// While an upgrade is on its way: what was answered is looked at.
    Answers,
    Count(RpcReplyPort<BTreeMap<LaborState, usize>>),
    Staying(RpcReplyPort<BTreeSet<LaborId>>),
    /// What may be said without waiting waits beside the mailbox.
    Commands,
    /// One that has a place among those that may wait.
    InPlace(Box<FleetMessage>, OwnedSemaphorePermit),
    /// Ends all labors, then the fleet; answered when nothing is left.
    Stop(RpcReplyPort<()>),
    /// Ends the fleet and no labor; answered when all that is known is stored.
    Leave(RpcReplyPort<()>),
    Sweep,
    /// Every labor's present life and state.
    Lives(RpcReplyPort<BTreeMap<Life, LaborState>>),
    Reconciling(RpcReplyPort<Arc<Reconciling>>),
}

pub(crate) struct FleetActor;

pub(crate) struct FleetArguments {
    pub(crate) shared: Arc<FleetShared>,
    /// Made with the actor's own reference, which it reports to.
    pub(crate) nodes: Box<dyn FnOnce(Mailbox<FleetMessage>) -> Nodes + Send>,
    /// What an earlier process has left.
    pub(crate) left: Left,
    pub(crate) seed: u64,
}

pub(crate) struct FleetState {
    pub(super) core: FleetCore,
    pub(super) shared: Arc<FleetShared>,
    pub(super) nodes: Arc<Nodes>,
    reconciling: Arc<Reconciling>,
    clock: Instant,
    /// When the armed timer fires.
    armed: Option<Millis>,
    pub(super) stopping: Vec<RpcReplyPort<()>>,
    /// Until the fleet begins to end in order: told when nothing of it is left, however it ends.
    pub(super) over: Option<DropGuard>,
    /// Time and randomness of the newest labor's id.
    last_id: (u64, u128),
    pub(super) tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Actor for FleetActor {
    type Msg = FleetMessage;
    type State = FleetState;
    type Arguments = FleetArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<FleetMessage>,
        arguments: FleetArguments,
    ) -> Result<FleetState, ActorProcessingErr> {
        let FleetArguments { shared, nodes, left, seed } = arguments;
        shared.metrics.fleet_actor.reset();
        let myself = Mailbox::new(myself, &shared.metrics.fleet_actor);
        let nodes = Arc::new(nodes(myself.clone()));
        let release = shared.releases.present().map(|release| release.id());
        let core = FleetCore::new(shared.options.clone(), seed).running(release);
        let reconciling = Arc::new(Reconciling::new(Arc::clone(&nodes), myself.clone()));
        let tasks = vec![
            tokio::spawn(Arc::clone(&reconciling).run(shared.options.reconcile)),
            tokio::spawn(notices(Arc::clone(&nodes), myself.clone())),
            tokio::spawn(Arc::clone(&nodes).keep_directories()),
            tokio::spawn(sweeps(myself.clone())),
            tokio::spawn(pauses(Arc::clone(&shared.condition), myself.clone())),
            tokio::spawn({
                let nodes = Arc::clone(&nodes);
                async move { nodes.records.run(nodes.plane.store()).await }
            }),
        ];
        let clock = Instant::now();
        let (armed, stopping, last_id) = (None, Vec::new(), (0, 0));
        let over = Some(shared.over.clone().drop_guard());
        let mut state =
            FleetState { core, shared, nodes, reconciling, clock, armed, stopping, over, last_id, tasks };
        state.take_over(left);
        state.arm(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<FleetMessage>,
        message: FleetMessage,
        state: &mut FleetState,
    ) -> Result<(), ActorProcessingErr> {
        state.shared.metrics.fleet_actor.taken();
        let myself = state.nodes.actor.clone();
        let message = match message {
            FleetMessage::InPlace(message, _place) => *message,
            other => other,
        };
        let now = state.now();
        // A heartbeat only moves deadlines back: the armed timer finds that out by itself.
        let quiet = matches!(message, FleetMessage::Event(Event::Heard(_)));
        match message {
            FleetMessage::Event(event) => {
                let effects = state.core.on_event(now, event.clone());
                state.carry_out(effects);
                state.close_stray(&event);
                if matches!(event, Event::Tick) {
                    state.armed = None;
                }
            }
            // What is dropped is answered by `Stopped`.
            FleetMessage::Start(_, reply) if state.core.is_stopping() => drop(reply),
            FleetMessage::Start(n, reply) => {
                let admitted = state.core.admit(n);
                let answer = admitted.map(|()| (0..n).map(|_| state.new_labor(false)).collect::<Vec<_>>());
                if let Ok(labors) = &answer {
                    let starts = labors.iter().flat_map(|l| state.core.on_event(now, Event::Start(l.id())));
                    let effects = starts.collect();
                    state.carry_out(effects);
                }
                let _ = reply.send(answer);
            }
            FleetMessage::Invite(_, reply) if state.core.is_stopping() => drop(reply),
            FleetMessage::Invite(invite, reply) => state.invite(now, &invite, reply),
            FleetMessage::Upgrade(_, reply) if state.core.is_stopping() => drop(reply),
            FleetMessage::Upgrade(upgrade, reply) => {
                let begun = state.upgrade(now, *upgrade);
                drop(reply.send(begun));
            }
            FleetMessage::Answers => state.look_at_answers(now),
            FleetMessage::Count(reply) => {
                let mut count = BTreeMap::new();
                for (_, labor) in state.core.labors() {
                    *count.entry(labor).or_default() += 1;
                }
                let _ = reply.send(count);
            }
            FleetMessage::Staying(reply) => {
                let labors = state.core.labors().map(|(life, _)| life.labor);
                drop(reply.send(labors.filter(|labor| state.core.stays(*labor)).collect()));
            }
            FleetMessage::Lives(reply) => drop(reply.send(state.core.labors().collect())),
            FleetMessage::Reconciling(reply) => drop(reply.send(Arc::clone(&state.reconciling))),
            FleetMessage::Commands => state.obey(now),
            FleetMessage::InPlace(..) => {}
            // One whose labors are being ended has none to leave.
            FleetMessage::Leave(reply) if !state.nodes.embedded && !state.core.is_stopping() => {
                state.leave(reply, &myself);
                return Ok(());
            }
            FleetMessage::Stop(reply) | FleetMessage::Leave(reply) => {
                state.stopping.push(reply);
                let mut effects = Vec::new();
                state.core.stop_all(now, Cause::Asked, &mut effects);
                state.carry_out(effects);
            }
            FleetMessage::Sweep => {
                let now = std::time::Instant::now();
                let sessions: Vec<Arc<Session>> = state.shared.sessions.lock().values().cloned().collect();
                sessions.iter().for_each(|s| s.sweep(now));
            }
        }
        if !quiet {
            state.go_on(&myself);
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<FleetMessage>,
        state: &mut FleetState,
    ) -> Result<(), ActorProcessingErr> {
        if state.over.is_some() {
            // Not in order: nobody else gives its name free.
            state.nodes.plane.release(&state.shared);
        }
        state.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<FleetMessage>,
        event: SupervisionEvent,
        state: &mut FleetState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            // Nobody is left to decide: no labor may go on unsupervised.
            let cause = Cause::Policy { rule: format!("a callback failed: {error}") };
            let mut effects = vec![Effect::Stops(cause.clone())];
            state.core.stop_all(state.now(), cause, &mut effects);
            state.carry_out(effects);
            let myself = state.nodes.actor.clone();
            state.go_on(&myself);
        }
        Ok(())
    }
}

async fn notices(nodes: Arc<Nodes>, actor: Mailbox<FleetMessage>) {
    let mut notices = nodes.adapter.notices(&nodes.shared.name);
    while let Some(notice) = notices.recv().await {
        let event = match notice {
            Notice::Ended(key, cause) => Event::Ended(Life::from(&key), cause),
            Notice::Going { key, cause, .. } => Event::Going(Life::from(&key), cause),
        };
        // An adapter that says more than the actor takes waits in its own channel.
        let Some(place) = nodes.shared.commands.places.take().await else { return };
        if actor.cast(FleetMessage::InPlace(Box::new(FleetMessage::Event(event)), place)).is_err() {
            return;
        }
    }
}

/// Tells the actor when labors can be started no longer, and when they can again.
async fn pauses(condition: Arc<Condition>, actor: Mailbox<FleetMessage>) {
    let mut paused = false;
    loop {
        condition.pause_changed(paused).await;
        paused = !paused;
        if actor.cast(FleetMessage::Event(Event::Paused(paused))).is_err() {
            return;
        }
    }
}

async fn sweeps(actor: Mailbox<FleetMessage>) {
    let mut every = tokio::time::interval(SWEEP);
    loop {
        every.tick().await;
        if actor.cast(FleetMessage::Sweep).is_err() {
            return;
        }
    }
}

impl FleetState {
    fn now(&self) -> Millis {
        self.clock.elapsed().as_millis() as u64
    }

    /// Goes on with the labors that an earlier process has left, and ends what it does not know.
    fn take_over(&mut self, left: Left) {
        let embedded = self.nodes.embedded;
        let mut survivors = BTreeSet::new();
        let today = millis(clock::now());
        for (record, found) in left.labors {
            let life = record.life();
            let invited = record.invited.map(|until| Duration::from_millis(until.saturating_sub(today)));
            if found == Found::Running {
                survivors.insert(life);
            }
            tracing::info!(labor = %life.labor, generation = life.generation.0, ?found, "a labor is taken over");
            let shared = self.labor_shared(life.labor, invited.is_some());
            self.shared.labors.write().insert(life.labor, shared);
            let unwanted = record.unwanted || embedded;
            self.nodes.records.seed(record);
            let effects = self.core.on_event(self.now(), Event::Adopted { life, found, unwanted, invited });
            self.carry_out(effects);
        }
        self.tasks(TaskEvent::Survivors(survivors));
        if !left.strangers.is_empty() {
            tracing::warn!(nodes = left.strangers.len(), "nodes that no record knows are ended");
            tokio::spawn(Arc::clone(&self.nodes).end_late(left.strangers));
        }
    }

    /// The slot is taken now; the answer follows when the invitation is stored.
    fn invite(&mut self, now: Millis, invite: &Invite, reply: RpcReplyPort<Result<Invitation, InviteError>>) {
        let admitted = self.nodes.endpoints_for(invite).and_then(|endpoints| {
            self.core.admit(1)?;
            Ok(endpoints)
        });
        let endpoints = match admitted {
            Ok(endpoints) => endpoints,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (labor, ttl) = (self.new_labor(true), invite.ttl);
        let id = labor.id();
        let effects = self.core.on_event(now, Event::Invite { id, ttl });
        self.carry_out(effects);
        let nodes = Arc::clone(&self.nodes);
        tokio::spawn(async move {
            let answer = nodes.invite(labor, ttl, endpoints).await;
            if reply.send(answer).is_err() {
                // Nobody has the document.
                nodes.report(Event::Terminate(id, Cause::Asked));
            }
        });
    }

    /// Does what was said without waiting: an end goes before a drain.
    fn obey(&mut self, now: Millis) {
        let mut given = self.shared.commands.take();
        let all = || self.core.labors().map(|(life, _)| life.labor);
        if given.terminate_all {
            given.terminate.extend(all());
        }
        if given.drain_all {
            given.drain.extend(all());
        }
        let ends = given.terminate.iter().map(|labor| Event::Terminate(*labor, Cause::Asked));
        let drains = given.drain.difference(&given.terminate).map(|labor| Event::Drain(*labor));
        let effects = ends.chain(drains).flat_map(|event| self.core.on_event(now, event)).collect();
        self.carry_out(effects);
    }

    fn new_labor(&mut self, invited: bool) -> Labor {
        let millis = millis(clock::now());
        // Of two in one millisecond the later one has the larger id too: they sort by age.
        let (last, random) = self.last_id;
        self.last_id = match millis {
            millis if millis > last => (millis, crate::random::u128() >> 49),
            _ => (last, random + 1),
        };
        let id = LaborId::new(self.last_id.0, self.last_id.1);
        let shared = self.labor_shared(id, invited);
        self.shared.labors.write().insert(id, Arc::clone(&shared));
        Labor { shared }
    }

    fn labor_shared(&self, id: LaborId, invited: bool) -> Arc<LaborShared> {
        let (payloads, metrics) = (Arc::clone(&self.shared.payloads), Arc::clone(&self.shared.metrics));
        Arc::new(LaborShared::new(id, invited, crate::random::u64(), payloads, metrics))
    }

    pub(super) fn arm(&mut self, myself: &Mailbox<FleetMessage>) {
        let Some(next) = self.core.next_deadline() else { return };
        if self.armed.is_some_and(|armed| armed <= next && armed > self.now()) {
            return;
        }
        self.armed = Some(next);
        let (at, actor) = (self.clock + Duration::from_millis(next), myself.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            let _ = actor.cast(FleetMessage::Event(Event::Tick));
        });
    }

    /// A session that came for a life that is over by now.
    fn close_stray(&self, event: &Event) {
        if let Event::Attached { life, session, .. } = event
            && self.shared.present(life.labor, life.generation).is_none()
        {
            self.shared.close_sessions(*life, Some(*session), Cause::OwnerLost, None);
        }
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut provision = Vec::new();
        let mut terminate = Vec::new();
        for effect in effects {
            let places = |session| {
                let open = self.shared.session(session);
                open.map_or(1, |session| session.concurrency.load(Ordering::Relaxed) as usize)
            };
            let for_tasks = effect.for_tasks(self.shared.options.requeue, places);
            match effect {
                Effect::Provision(life) => {
                    one(&self.shared.metrics.starts);
                    provision.push(life);
                }
                Effect::Terminate(life) => terminate.push(life),
                Effect::Load(life, session, release) => self.load(life, session, release),
                Effect::Changed(life, _) => {
                    tracing::debug!(labor = %life.labor, "a labor has changed its release")
                }
                Effect::Upgrading(status) => self.upgrading(status),
                Effect::Upgraded(status) => self.upgraded(&status),
                Effect::SendDrain(_, session) => {
                    let deadline_ms = self.shared.options.deadlines.drain.as_millis() as u64;
                    self.order(session, order::Kind::Drain(proto::Drain { deadline_ms }));
                }
                Effect::SendShutdown(_, session, cause) => {
                    let cause = cause.to_bytes().into();
                    self.order(session, order::Kind::Shutdown(proto::Shutdown { cause }));
                }
                Effect::CloseSession(life, which) => {
                    self.shared.close_sessions(life, which, Cause::ConnectionLost, None);
                }
                Effect::OpenForCalls(_, session) => self.shared.open_for_calls(session),
                Effect::CloseForCalls(life) => self.shared.close_for_calls(life),
                Effect::State(life, labor, cause) => {
                    self.shared.record(life, labor, cause.clone());
                    if labor != LaborState::Terminated {
                        let wanted = self.core.is_wanted(life.labor);
                        self.nodes.records.enter(life, labor, wanted, cause);
                    }
                }
                Effect::Tell(happening) => {
                    if let Happening::Terminated(_, cause, next) = &happening {
                        self.shared.metrics.ends.add(cause.code());
                        if matches!(next, WhatNext::Restart { .. }) {
                            one(&self.shared.metrics.restarts);
                        }
                    }
                    said::happened(&self.shared.name, &happening);
                    if let Happening::Terminated(life, ..) = &happening
                        && let Some(labor) = self.shared.labor_or_ended(life.labor)
                    {
                        labor.shared.end_logs(life.generation, Arc::clone(&self.shared.logs));
                    }
                    self.tell(happening);
                }
                Effect::Stops(cause) => {
                    said::stops(&self.shared.name, &cause);
                    let _ = self.shared.stopped_by.set(cause);
                }
                Effect::Forget(labor) => {
                    self.shared.forget(labor);
                    self.nodes.records.forget(labor);
                }
            }
            if let Some(event) = for_tasks {
                self.tasks(event);
            }
        }
        if !provision.is_empty() {
            let nodes = Arc::clone(&self.nodes);
            tokio::spawn(async move { nodes.provision(provision).await });
        }
        if !terminate.is_empty() {
            let nodes = Arc::clone(&self.nodes);
            tokio::spawn(async move { nodes.terminate(terminate).await });
        }
    }

    fn tasks(&self, event: TaskEvent) {
        if let Some(tasks) = self.shared.tasks.get() {
            tasks.event(event);
        }
    }

    pub(super) fn order(&self, session: SessionId, kind: order::Kind) {
        if let Some(session) = self.shared.session(session) {
            session.order(kind);
        }
    }

    fn tell(&self, happening: Happening) {
        let Some(handler) = self.shared.handler.get() else { return };
        let labor = |life: Life| self.shared.labor_or_ended(life.labor);
        let told = match happening {
            Happening::Connected(life) => {
                labor(life).and_then(|l| l.facts().map(|facts| Told::Connected(l, facts)))
            }
            Happening::Loaded(life) => {
                labor(life).zip(self.core.target(life.labor)).map(|(l, release)| Told::Loaded(l, release))
            }
            Happening::Paired(life) => labor(life).map(Told::Paired),
            Happening::Disconnected(life, cause) => labor(life).map(|l| Told::Disconnected(l, cause)),
            Happening::Terminated(life, cause, next) => labor(life).map(|l| Told::Terminated(l, cause, next)),
            Happening::Going(life, cause) => {
                labor(life).map(|labor| Told::Event(FleetEvent::Going { labor, cause }))
            }
            Happening::Escalated(life, cause) => {
                labor(life).map(|labor| Told::Event(FleetEvent::Escalated { labor, cause }))
            }
        };
        if let Some(told) = told {
            handler.tell(told);
        }
    }
}
