use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use overseer_protocol::{Cause, Facts, ReleaseId};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use super::{Fleet, FleetHandle};
use crate::callbacks::{FleetEvent, Overseer};
use crate::core::WhatNext;
use crate::labor::Labor;
use crate::telemetry::Batch;

/// Batches of telemetry that wait for `handle_telemetry`; newer ones are dropped and counted.
const TELEMETRY_BATCHES: usize = 256;

/// What the callbacks are told. Bounded by the number of labors and their changes.
pub(crate) enum Told {
    Connected(Labor, Arc<Facts>),
    Loaded(Labor, ReleaseId),
    Paired(Labor),
    Disconnected(Labor, Cause),
    Terminated(Labor, Cause, WhatNext),
    Event(FleetEvent),
}

/// The way to the callbacks, for those who do not know the user's type.
#[async_trait]
pub(crate) trait HandlerPort: Send + Sync {
    fn tell(&self, told: Told);
    fn telemetry(&self, labor: Labor, batch: &Batch);
    /// What was told so far is still taken, then the callbacks end, also when `supervisor` has
    /// ended before.
    fn finish(&self, supervisor: ActorCell);
    /// Waits until the callbacks have ended, unless one of them asks.
    async fn finished(&self, patience: Duration);
}

pub(crate) type Visit<H> = Box<dyn FnOnce(&mut H) + Send>;

pub(crate) enum HandlerMessage<H> {
    Told(Told),
    Telemetry(Labor, Batch),
    /// A call or cast to the user's own state.
    Visit(Visit<H>),
}

#[derive(Default)]
pub(crate) struct Gauge {
    waiting: AtomicUsize,
    dropped: AtomicU64,
    /// Where the callbacks run.
    task: OnceLock<tokio::task::Id>,
}

pub(crate) struct Port<H: Overseer> {
    pub(crate) actor: ActorRef<HandlerMessage<H>>,
    pub(crate) gauge: Arc<Gauge>,
}

#[async_trait]
impl<H: Overseer> HandlerPort for Port<H> {
    fn tell(&self, told: Told) {
        // A handler that has stopped is told nothing.
        let _ = self.actor.cast(HandlerMessage::Told(told));
    }

    fn telemetry(&self, labor: Labor, batch: &Batch) {
        if self.gauge.waiting.fetch_add(1, Ordering::Relaxed) >= TELEMETRY_BATCHES {
            self.gauge.waiting.fetch_sub(1, Ordering::Relaxed);
            self.gauge.dropped.fetch_add(u64::from(batch.count), Ordering::Relaxed);
            return;
        }
        let _ = self.actor.cast(HandlerMessage::Telemetry(labor, batch.clone()));
    }

    fn finish(&self, supervisor: ActorCell) {
        self.actor.unlink(supervisor);
        // One that has ended already has nothing to finish.
        let _ = self.actor.drain();
    }

    async fn finished(&self, patience: Duration) {
        let here = tokio::task::try_id();
        if here.is_some() && here == self.gauge.task.get().copied() {
            return;
        }
        if self.actor.wait(Some(patience)).await.is_err() {
            tracing::warn!("a callback still runs after the end of its fleet");
        }
    }
}

/// Runs the callbacks, one at a time.
pub(crate) struct HandlerActor<H>(std::marker::PhantomData<fn(H)>);

impl<H> HandlerActor<H> {
    pub(crate) fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

pub(crate) struct HandlerState<H: Overseer> {
    handler: H,
    fleet: Fleet<H>,
    gauge: Arc<Gauge>,
}

impl<H: Overseer> Actor for HandlerActor<H> {
    type Msg = HandlerMessage<H>;
    type State = HandlerState<H>;
    type Arguments = (H, FleetHandle);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (mut handler, handle): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let gauge = Arc::<Gauge>::default();
        let port = Port { actor: myself.clone(), gauge: Arc::clone(&gauge) };
        let _ = handle.shared.handler.set(Arc::new(port));
        let fleet = Fleet { handle, handler: myself };
        handler.init(&fleet).await?;
        Ok(HandlerState { handler, fleet, gauge })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let HandlerState { handler, fleet, gauge } = state;
        gauge.task.get_or_init(tokio::task::id);
        match message {
            HandlerMessage::Visit(visit) => visit(handler),
            HandlerMessage::Telemetry(labor, batch) => {
                gauge.waiting.fetch_sub(1, Ordering::Relaxed);
                for record in batch.iter() {
                    handler.handle_telemetry(fleet, &labor, &record).await;
                }
                let dropped = gauge.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    handler.handle_event(fleet, &FleetEvent::TelemetryDropped { records: dropped }).await;
                }
            }
            HandlerMessage::Told(told) => match told {
                Told::Connected(labor, facts) => handler.handle_connected(fleet, &labor, &facts).await,
                Told::Loaded(labor, release) => handler.handle_loaded(fleet, &labor, &release).await,
                Told::Paired(labor) => handler.handle_paired(fleet, &labor).await,
                Told::Disconnected(labor, cause) => handler.handle_disconnected(fleet, &labor, &cause).await,
                Told::Terminated(labor, cause, next) => {
                    handler.handle_terminated(fleet, &labor, &cause, next).await;
                }
                Told::Event(event) => handler.handle_event(fleet, &event).await,
            },
        }
        Ok(())
    }
}
