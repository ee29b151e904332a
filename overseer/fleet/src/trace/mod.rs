//! Spans of calls and tasks that somebody traces: from the request to the run in the plugin, under
//! one trace id.
//!
//! Nothing is recorded unless a [`Tracer`] was given to the control plane and the request has a
//! [`TraceContext`] that is sampled; then a call costs a few spans. The agent exports nothing: it
//! says in its answer how long a call waited and ran, and the Overseer, who has chosen the ids of
//! these spans and has sent that of the run along, makes spans of it. So nodes need no way to a
//! collector, and their clocks need not agree with ours: the time at the agent is put in the middle
//! of the time between order and answer.

mod ids;
mod in_flight;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use overseer_protocol::{SpanId, TraceContext, TraceId};
use tokio::sync::mpsc;

pub use self::ids::{new_span, new_trace};
pub(crate) use self::in_flight::{FleetTracer, InFlight, attempt_queued, run_of_attempt};
pub use self::span::{Span, SpanKind};

/// Where spans go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spans: mpsc::Sender<Span>,
    recorded: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Tracer {
    /// One whose spans come out of the receiver. When so many wait there, further ones are dropped
    /// and counted.
    pub fn new(waiting: usize) -> (Self, mpsc::Receiver<Span>) {
        let (spans, receiver) = mpsc::channel(waiting.max(1));
        let (recorded, dropped, failed) = Default::default();
        (Self { inner: Arc::new(Inner { spans, recorded, dropped, failed }) }, receiver)
    }

    /// Takes a span that is over. Never waits.
    pub fn record(&self, span: Span) {
        let counter = match self.inner.spans.try_send(span) {
            Ok(()) => &self.inner.recorded,
            Err(_) => &self.inner.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that so many spans came out and could not be passed on.
    pub fn not_exported(&self, spans: u64) {
        self.inner.failed.fetch_add(spans, Ordering::Relaxed);
    }

    /// Spans that were taken, dropped because too many waited, and taken but not passed on.
    pub fn counted(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.inner.recorded), read(&self.inner.dropped), read(&self.inner.failed))
    }
}
