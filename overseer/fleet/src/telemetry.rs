//! What labors say by themselves, routed to any number of subscribers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use overseer_plugin::record::{Record, Records};
use overseer_protocol::{Generation, LaborId};
use tokio::sync::broadcast;

use crate::metrics::FleetMetrics;

/// Batches that a subscriber may be behind; then it loses its oldest, and nobody else's.
pub const SUBSCRIBER_BATCHES: usize = 1024;

/// Records of one labor, in order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Who.
    pub labor: LaborId,
    /// In which life.
    pub generation: Generation,
    /// Number of the first record; counts from 0 in each life.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Records that the labor itself has dropped so far in this life for want of room.
    pub dropped: u64,
    /// Encoded records.
    pub records: Bytes,
}

impl Batch {
    /// The records; one that cannot be read is skipped.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        Records::new(&self.records).filter_map(Result::ok)
    }
}

/// Telemetry of a fleet as one subscriber sees it.
pub struct Telemetry {
    receiver: broadcast::Receiver<Batch>,
    next: HashMap<(LaborId, Generation), u64>,
    missed: u64,
    metrics: Arc<FleetMetrics>,
}

impl Telemetry {
    /// `next` has the number that follows of each labor that has said something already.
    pub(crate) fn new(
        receiver: broadcast::Receiver<Batch>,
        next: HashMap<(LaborId, Generation), u64>,
        metrics: Arc<FleetMetrics>,
    ) -> Self {
        Self { receiver, next, missed: 0, metrics }
    }

    /// The next batch; `None` once the fleet has stopped.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            match self.receiver.recv().await {
                Ok(batch) => {
                    let next = self.next.entry((batch.labor, batch.generation)).or_default();
                    self.missed += batch.first.saturating_sub(*next);
                    *next = batch.first.saturating_add(u64::from(batch.count)).max(*next);
                    return Some(batch);
                }
                // How many records that was shows in the numbers of the next batch.
                Err(broadcast::error::RecvError::Lagged(batches)) => {
                    self.metrics.queue_dropped.add_many("telemetry_subscribers", batches);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Records that this subscriber has lost by being slow, as far as later batches show;
    /// drops of the labors themselves are among them.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
