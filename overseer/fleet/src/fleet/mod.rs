//! The labors of one spec under one Overseer: [`Fleet`].

mod actor;
mod builder;
mod commands;
mod directories;
mod end;
mod errors;
mod handler;
mod invitation;
mod nodes;
mod reconciler;
mod record_writer;
mod recovery;
mod said;
mod shared;
mod upgrade;
mod upgrader;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overseer_adapter::NodeKey;
use overseer_protocol::{Cause, FleetName, LaborId, LaborState, LogStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, oneshot};

pub(crate) use self::actor::FleetMessage;
pub use self::builder::{FleetBuilder, MAX_SPIN, StartError};
use self::commands::Given;
pub(crate) use self::commands::Places;
pub use self::errors::{CastStateError, ReconcileError, StartChildError, Stopped, WAITING_CASTS};
pub(crate) use self::handler::Told;
use self::handler::{HandlerMessage, Visit};
use self::invitation::Invite;
pub use self::invitation::{INVITATION_TTL, Invitation, InviteError};
pub use self::recovery::RecoveryError;
pub(crate) use self::shared::{FleetShared, Place, left};
pub use self::upgrade::{NotUpgraded, UpgradeError, Upgrading};
use crate::call::{CallError, CallOptions};
use crate::callbacks::{Overseer, Quiet};
use crate::core::{Event, Finding, Life, Pass};
use crate::history::FleetEntry;
use crate::labor::{Labor, OpenCall, decode, encode};
use crate::logs::{LogError, LogReader};
use crate::mailbox::Mailbox;
use crate::telemetry::Telemetry;

/// How many labors a fleet has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Slots taken.
    pub total: usize,
    /// Of those, paired and taking calls.
    pub ready: usize,
    /// By state.
    pub by_state: BTreeMap<LaborState, usize>,
}

/// What everybody may do with a fleet, whatever its callbacks are. Cheap to clone.
#[derive(Clone)]
pub struct FleetHandle {
    pub(crate) shared: Arc<FleetShared>,
    pub(crate) actor: Mailbox<FleetMessage>,
}

impl FleetHandle {
    /// Its name.
    pub fn name(&self) -> &FleetName {
        &self.shared.name
    }

    /// Starts one labor and returns at once; [`Labor::ready`] waits for it.
    ///
    /// # Errors
    /// [`StartChildError`]; nothing was started.
    pub async fn start_child(&self) -> Result<Labor, StartChildError> {
        let mut labors = self.start_children(1).await?;
        labors.pop().ok_or(StartChildError::Stopped(Stopped))
    }

    /// Starts `n` labors, or none when there are not slots for all.
    ///
    /// # Errors
    /// [`StartChildError`]; nothing was started.
    pub async fn start_children(&self, n: usize) -> Result<Vec<Labor>, StartChildError> {
        if let Some(trouble) = self.shared.condition.pauses().filter(|_| n > 0) {
            return Err(StartChildError::Paused(Box::new(trouble)));
        }
        Ok(self.ask(|reply| FleetMessage::Start(n, reply)).await??)
    }

    /// Makes a place for a machine that somebody has, which joins by hand within `ttl`
    /// ([`INVITATION_TTL`]): on it, `overseer labor join TOKEN`. It takes a slot at once, is called
    /// and given tasks as the others are, and is never replaced. No adapter can end it: it is told
    /// to leave, and where it does not hear that, its slot is free when its lease has run out.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(fleet: &overseer::Fleet) -> Result<(), Box<dyn std::error::Error>> {
    /// let invitation = fleet.invite(Duration::from_secs(15 * 60)).await?;
    /// println!("overseer labor join {}", invitation.token()?.expose());
    /// invitation.labor.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InviteError`]; nobody was invited. The control plane must
    /// [listen](crate::control_plane::ControlPlaneBuilder::listen) on TCP.
    pub async fn invite(&self, ttl: Duration) -> Result<Invitation, InviteError> {
        self.invite_to(ttl, Vec::new()).await
    }

    /// As [`FleetHandle::invite`], to call at these addresses (`HOST:PORT`), which lead to where the
    /// control plane listens: behind a router, or by a name.
    ///
    /// # Errors
    /// [`InviteError`].
    pub async fn invite_to(&self, ttl: Duration, addresses: Vec<String>) -> Result<Invitation, InviteError> {
        self.ask(|reply| FleetMessage::Invite(Invite { ttl, addresses }, reply)).await?
    }

    /// Ends a labor for good: its plugin is asked to stop, then the node is ended. Returns at
    /// once; [`Labor::terminated`] waits for it. An unknown labor is fine.
    pub fn terminate_child(&self, labor: LaborId) {
        if self.shared.labor(labor).is_some() {
            self.command(|given| _ = given.terminate.insert(labor));
        }
    }

    /// Ends every labor for good; new ones may be started.
    pub fn terminate_all(&self) {
        self.command(|given| given.terminate_all = true);
    }

    /// Lets a labor finish its calls, then ends it for good.
    pub fn drain(&self, labor: LaborId) {
        if self.shared.labor(labor).is_some() {
            self.command(|given| _ = given.drain.insert(labor));
        }
    }

    /// Lets every labor finish its calls, then ends it for good.
    pub fn drain_all(&self) {
        self.command(|given| given.drain_all = true);
    }

    /// How many labors there are.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_children(&self) -> Result<Count, Stopped> {
        let by_state = self.ask(FleetMessage::Count).await?;
        let ready = by_state.get(&LaborState::Ready).copied().unwrap_or(0);
        Ok(Count { total: by_state.values().sum(), ready, by_state })
    }

    /// The labors that stay: they live on, or another life of them follows.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn staying_children(&self) -> Result<BTreeSet<LaborId>, Stopped> {
        self.ask(FleetMessage::Staying).await
    }

    /// The labors that have a slot, by age.
    pub fn which_children(&self) -> Vec<Labor> {
        let labors = self.shared.labors.read();
        let mut all: Vec<Labor> = labors.values().map(|l| Labor { shared: Arc::clone(l) }).collect();
        all.sort_by_key(Labor::id);
        all
    }

    /// A labor that has a slot, or that has ended and whose history is still kept.
    pub fn labor(&self, id: LaborId) -> Option<Labor> {
        self.shared.labor_or_ended(id)
    }

    /// Changes of state of all labors, and stages of upgrades, from now on. One who reads too slowly
    /// loses the oldest and is told how many.
    pub fn events(&self) -> broadcast::Receiver<FleetEntry> {
        self.shared.events.subscribe()
    }

    /// For who was told by [`FleetHandle::events`] how many it has lost: counts them in the metrics.
    pub fn count_lost_events(&self) -> impl Fn(u64) + Send + Sync + 'static + use<> {
        let metrics = Arc::clone(&self.shared.metrics);
        move |events| metrics.queue_dropped.add_many("event_subscribers", events)
    }

    /// Telemetry of all labors from now on. One who reads too slowly loses its own.
    pub fn telemetry(&self) -> Telemetry {
        let receiver = self.shared.telemetry.subscribe();
        let labors = self.shared.labors.read();
        let next = labors.values().map(|labor| {
            let (generation, next) = *labor.telemetry.lock();
            ((labor.id, generation), next)
        });
        Telemetry::new(receiver, next.collect(), Arc::clone(&self.shared.metrics))
    }

    /// Follows a log stream from an offset on.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn logs(&self, stream: LogStream, from: u64) -> Result<LogReader, LogError> {
        self.shared.logs.read(stream, from).await
    }

    /// Holds the fleet against what its adapter has, its sessions and its records, and acts on what
    /// does not fit and did not the last time either. It also happens by itself. With `force` also
    /// where more would be ended at once than the brake lets through.
    ///
    /// # Errors
    /// [`ReconcileError`]; what was done before it stays done.
    pub async fn reconcile(&self, force: bool) -> Result<Pass, ReconcileError> {
        Ok(self.ask(FleetMessage::Reconciling).await?.pass(force).await?)
    }

    /// What does not fit right now, some of which may be on its way. Nothing is done.
    ///
    /// # Errors
    /// [`ReconcileError`].
    pub async fn findings(&self) -> Result<Vec<Finding>, ReconcileError> {
        Ok(self.ask(FleetMessage::Reconciling).await?.look().await?)
    }

    /// Calls a typed method on the least loaded labor; waits for one to be ready.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call<In, Out>(&self, method: &str, argument: &In) -> Result<Out, CallError>
    where
        In: Serialize + ?Sized,
        Out: DeserializeOwned,
    {
        decode(&self.call_bytes(method, encode(argument)?, CallOptions::default()).await?)
    }

    /// As [`FleetHandle::call`], with bytes and deadlines. Dropping the future cancels the call.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call_bytes(
        &self,
        method: &str,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        self.start_call(method, payload, options).await?.answer().await
    }

    /// Begins a call on the least loaded labor and returns once it is on its way.
    ///
    /// # Errors
    /// [`CallError::NoLabor`], [`CallError::FleetFull`] and those of [`Labor::start_call`].
    pub async fn start_call(
        &self,
        method: &str,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<OpenCall, CallError> {
        self.shared.start_call(method, payload.into(), options).await
    }

    /// Sends a message without an answer to the least loaded labor.
    ///
    /// # Errors
    /// As [`Labor::cast`]; [`CallError::NoLabor`] at once when none is ready.
    pub async fn cast<In: Serialize + ?Sized>(&self, method: &str, argument: &In) -> Result<(), CallError> {
        self.shared.cast(method, encode(argument)?.into())
    }

    /// Calls a typed method on every labor that is ready, all at once; the answers in order of
    /// age.
    pub async fn broadcast<In, Out>(
        &self,
        method: &str,
        argument: &In,
    ) -> Vec<(Labor, Result<Out, CallError>)>
    where
        In: Serialize + ?Sized,
        Out: DeserializeOwned,
    {
        let ready = self.which_children().into_iter().filter(|l| l.status().state == LaborState::Ready);
        let payload = encode(argument).map(Bytes::from);
        let mut open = Vec::new();
        for labor in ready {
            let call = match &payload {
                Ok(bytes) => labor.start_call(method, bytes.clone(), CallOptions::default()).await,
                Err(error) => Err(error.clone()),
            };
            open.push((labor, call));
        }
        let mut answers = Vec::with_capacity(open.len());
        for (labor, call) in open {
            let answer = match call {
                Ok(call) => call.answer().await.and_then(|bytes| decode(&bytes)),
                Err(error) => Err(error),
            };
            answers.push((labor, answer));
        }
        answers
    }

    /// Why the fleet has stopped, or is about to, where nobody has asked for that: its escalation is to
    /// stop, or a callback has failed.
    pub fn stopped_by(&self) -> Option<&Cause> {
        self.shared.stopped_by.get()
    }

    /// Ends every labor and the fleet; returns when no node is left and the callbacks have been
    /// told, unless they take longer than the deadline for stopping. In a callback it does not
    /// wait for the callbacks that follow.
    pub async fn stop(&self) {
        self.end(FleetMessage::Stop).await;
    }

    /// Supervises no longer, and ends no labor: they dial again and go on under the fleet of this
    /// name that is started next, here or in the next process, until their leases run out.
    /// Returns when everything that is known of labors and tasks is stored and the name is free.
    /// Open calls fail with [`CallError::LaborLost`]; tasks run on, but for an attempt that was on
    /// its way to a labor: it is lost, and `retry` says what follows. In an embedded control plane,
    /// whose labors end with the process, this is [`FleetHandle::stop`].
    pub async fn leave(&self) {
        self.end(FleetMessage::Leave).await;
    }

    async fn end(&self, how: impl FnOnce(ractor::RpcReplyPort<()>) -> FleetMessage) {
        // One that has stopped already, or is stopped by others, answers no more, and may still write.
        let _ = self.ask(how).await;
        self.shared.over.cancelled().await;
        if let Some(handler) = self.shared.handler.get() {
            handler.finished(self.shared.options.deadlines.stop).await;
        }
    }

    pub(crate) fn event(&self, event: Event) {
        // A fleet that has stopped has nothing to do.
        let _ = self.actor.cast(FleetMessage::Event(event));
    }

    fn command(&self, command: impl FnOnce(&mut Given)) {
        if self.shared.commands.give(command) {
            // A fleet that has stopped has nothing to do.
            let _ = self.actor.cast(FleetMessage::Commands);
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<T>) -> FleetMessage,
    ) -> Result<T, Stopped> {
        let (send, receive) = ractor::concurrency::oneshot();
        let place = self.shared.commands.places.take().await.ok_or(Stopped)?;
        let message = FleetMessage::InPlace(Box::new(message(send.into())), place);
        self.actor.cast(message).map_err(|_| Stopped)?;
        receive.await.map_err(|_| Stopped)
    }
}

impl Life {
    pub(crate) fn of(identity: &overseer_protocol::Identity) -> Self {
        Self { labor: identity.labor, generation: identity.generation }
    }
}

impl From<&NodeKey> for Life {
    fn from(key: &NodeKey) -> Self {
        Self { labor: key.labor, generation: key.generation }
    }
}

/// A running fleet and the way to the state of its callbacks. Cheap to clone; it runs on until
/// [`FleetHandle::stop`].
pub struct Fleet<H: Overseer = Quiet> {
    pub(crate) handle: FleetHandle,
    pub(crate) handler: Mailbox<HandlerMessage<H>>,
}

impl<H: Overseer> Clone for Fleet<H> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), handler: self.handler.clone() }
    }
}

impl<H: Overseer> Deref for Fleet<H> {
    type Target = FleetHandle;

    fn deref(&self) -> &FleetHandle {
        &self.handle
    }
}

impl<H: Overseer> Fleet<H> {
    /// Calls the user's own state: runs `visit` on it between two callbacks and returns what it
    /// returns. Waits for a place where many wait already.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn call_state<R: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut H) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (send, receive) = oneshot::channel();
        let place = self.shared.state_calls.take().await.ok_or(Stopped)?;
        self.visit(Box::new(move |state| {
            drop(place);
            let _ = send.send(visit(state));
        }))?;
        receive.await.map_err(|_| Stopped)
    }

    /// Casts to the user's own state: `visit` runs on it some time later.
    ///
    /// # Errors
    /// [`CastStateError`]; `visit` does not run then.
    pub fn cast_state(&self, visit: impl FnOnce(&mut H) + Send + 'static) -> Result<(), CastStateError> {
        let place = Place::take(&self.shared.state_casts, WAITING_CASTS).ok_or_else(|| {
            self.shared.metrics.refused.add("state_casts");
            CastStateError::Full
        })?;
        self.visit(Box::new(move |state| {
            drop(place);
            visit(state);
        }))?;
        Ok(())
    }

    fn visit(&self, visit: Visit<H>) -> Result<(), Stopped> {
        self.handler.cast(HandlerMessage::Visit(visit)).map_err(|_| Stopped)
    }
}
