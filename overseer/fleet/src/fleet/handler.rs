use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use overseer_protocol::{Cause, Facts, ReleaseId};
use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use super::{Fleet, FleetHandle};
use crate::callbacks::{FleetEvent, Overseer};
use crate::core::WhatNext;
use crate::labor::Labor;
use crate::mailbox::Mailbox;
use crate::metrics::FleetMetrics;
use crate::telemetry::Batch;

/// Batches of telemetry that wait for `handle_telemetry`; then the oldest is dropped and its
/// records are counted.
const TELEMETRY_BATCHES: usize = 256;

/// Callbacks that wait; then the oldest is dropped, and `handle_event` is told how many.
const WAITING_CALLBACKS: usize = 16_384;

/// What the callbacks are told.
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
    /// What waits to be told, and batches of telemetry that wait.
    fn waiting(&self) -> (usize, usize);
    /// What was told so far is still taken, then the callbacks end, also when `supervisor` has
    /// ended before.
    fn finish(&self, supervisor: ActorCell);
    /// Waits until the callbacks have ended, unless one of them asks.
    async fn finished(&self, patience: Duration);
}

pub(crate) type Visit<H> = Box<dyn FnOnce(&mut H) + Send>;

pub(crate) enum HandlerMessage<H> {
    /// Something to be told waits: one such message for each.
    Told,
    /// A batch of telemetry waits.
    Telemetry,
    /// A call or cast to the user's own state.
    Visit(Visit<H>),
}

/// What waits beside the mailbox, so that it has a bound.
pub(crate) struct Waiting {
    metrics: Arc<FleetMetrics>,
    telemetry: Mutex<TelemetryQueue>,
    told: Mutex<ToldQueue>,
    /// Where the callbacks run.
    task: OnceLock<tokio::task::Id>,
}

#[derive(Default)]
struct TelemetryQueue {
    batches: VecDeque<(Labor, Batch)>,
    /// Records dropped since the callback was last told.
    dropped: u64,
    /// Whether a message that says so is on its way.
    announced: bool,
}

#[derive(Default)]
struct ToldQueue {
    waiting: VecDeque<Told>,
    /// Dropped since that was last said.
    dropped: u64,
}

impl ToldQueue {
    /// Queues it; true when there is one more than before.
    fn push(&mut self, told: Told) -> bool {
        let full = self.waiting.len() == WAITING_CALLBACKS;
        if full {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(told);
        !full
    }
}

impl Waiting {
    /// Queues a batch; true when the callbacks are to be told of it.
    fn push(&self, labor: Labor, batch: Batch) -> bool {
        let mut queue = self.telemetry.lock();
        if queue.batches.len() == TELEMETRY_BATCHES
            && let Some((_, oldest)) = queue.batches.pop_front()
        {
            queue.dropped += u64::from(oldest.count);
            self.metrics.dropped.add_many("callbacks", u64::from(oldest.count));
            self.metrics.queue_dropped.add("telemetry_callbacks");
        }
        queue.batches.push_back((labor, batch));
        !std::mem::replace(&mut queue.announced, true)
    }

    /// The oldest batch, what was dropped before it, and whether another one waits.
    fn pop(&self) -> (Option<(Labor, Batch)>, u64, bool) {
        let mut queue = self.telemetry.lock();
        let batch = queue.batches.pop_front();
        queue.announced = !queue.batches.is_empty();
        (batch, std::mem::take(&mut queue.dropped), queue.announced)
    }
}

pub(crate) struct Port<H: Overseer> {
    actor: Mailbox<HandlerMessage<H>>,
    waiting: Arc<Waiting>,
}

#[async_trait]
impl<H: Overseer> HandlerPort for Port<H> {
    fn tell(&self, told: Told) {
        let more = self.waiting.told.lock().push(told);
        if more {
            // A handler that has stopped is told nothing.
            let _ = self.actor.cast(HandlerMessage::Told);
        } else {
            self.waiting.metrics.queue_dropped.add("callbacks");
        }
    }

    fn telemetry(&self, labor: Labor, batch: &Batch) {
        if self.waiting.push(labor, batch.clone()) {
            let _ = self.actor.cast(HandlerMessage::Telemetry);
        }
    }

    fn waiting(&self) -> (usize, usize) {
        (self.waiting.told.lock().waiting.len(), self.waiting.telemetry.lock().batches.len())
    }

    fn finish(&self, supervisor: ActorCell) {
        self.actor.unlink(supervisor);
        // One that has ended already has nothing to finish.
        let _ = self.actor.drain();
    }

    async fn finished(&self, patience: Duration) {
        let here = tokio::task::try_id();
        if here.is_some() && here == self.waiting.task.get().copied() {
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
    waiting: Arc<Waiting>,
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
        let metrics = Arc::clone(&handle.shared.metrics);
        metrics.callbacks.reset();
        let myself = Mailbox::new(myself, &metrics.callbacks);
        let (telemetry, told, task) = Default::default();
        let waiting = Arc::new(Waiting { metrics, telemetry, told, task });
        let port = Port { actor: myself.clone(), waiting: Arc::clone(&waiting) };
        let _ = handle.shared.handler.set(Arc::new(port));
        let fleet = Fleet { handle, handler: myself };
        handler.init(&fleet).await?;
        Ok(HandlerState { handler, fleet, waiting })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let HandlerState { handler, fleet, waiting } = state;
        waiting.metrics.callbacks.taken();
        waiting.task.get_or_init(tokio::task::id);
        match message {
            HandlerMessage::Visit(visit) => visit(handler),
            HandlerMessage::Telemetry => loop {
                let (batch, dropped, more) = waiting.pop();
                if dropped > 0 {
                    handler.handle_event(fleet, &FleetEvent::TelemetryDropped { records: dropped }).await;
                }
                if let Some((labor, batch)) = batch {
                    for record in batch.iter() {
                        handler.handle_telemetry(fleet, &labor, &record).await;
                    }
                }
                // Behind what else waits: a flood of telemetry delays nothing by more than a batch.
                // At the end nothing comes in any more, and what is left is told here.
                if !more || fleet.handler.cast(HandlerMessage::Telemetry).is_ok() {
                    break;
                }
            },
            HandlerMessage::Told => {
                let (told, dropped) = {
                    let mut queue = waiting.told.lock();
                    (queue.waiting.pop_front(), std::mem::take(&mut queue.dropped))
                };
                if dropped > 0 {
                    tracing::warn!(dropped, "callbacks were too slow: the oldest were dropped");
                    let event = FleetEvent::CallbacksDropped { callbacks: dropped };
                    handler.handle_event(fleet, &event).await;
                }
                let Some(told) = told else { return Ok(()) };
                tell(handler, fleet, told).await;
            }
        }
        Ok(())
    }
}

async fn tell<H: Overseer>(handler: &mut H, fleet: &Fleet<H>, told: Told) {
    match told {
        Told::Connected(labor, facts) => handler.handle_connected(fleet, &labor, &facts).await,
        Told::Loaded(labor, release) => handler.handle_loaded(fleet, &labor, &release).await,
        Told::Paired(labor) => handler.handle_paired(fleet, &labor).await,
        Told::Disconnected(labor, cause) => handler.handle_disconnected(fleet, &labor, &cause).await,
        Told::Terminated(labor, cause, next) => {
            handler.handle_terminated(fleet, &labor, &cause, next).await;
        }
        Told::Event(event) => handler.handle_event(fleet, &event).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(n: u64) -> Told {
        Told::Event(FleetEvent::TelemetryDropped { records: n })
    }

    #[test]
    fn callbacks_that_are_too_slow_lose_the_oldest_and_know_how_many() {
        let mut queue = ToldQueue::default();
        let more = (0..WAITING_CALLBACKS as u64 + 3).filter(|n| queue.push(told(*n))).count();
        // A message for each that waits, and none more.
        assert_eq!((more, queue.waiting.len(), queue.dropped), (WAITING_CALLBACKS, WAITING_CALLBACKS, 3));
        let Some(Told::Event(FleetEvent::TelemetryDropped { records })) = queue.waiting.pop_front() else {
            panic!("nothing waits")
        };
        assert_eq!(records, 3, "the oldest that is left");
    }
}
