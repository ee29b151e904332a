use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use overseer_protocol::FleetName;
use parking_lot::RwLock;

use super::{Counts, FleetMetrics};
use crate::trace::Tracer;

/// Fleets whose counters are kept; beyond that those of fleets that are gone are forgotten.
const FLEETS: usize = 256;

/// Why a labor was not given a certificate: claims as they are refused, and what comes before and
/// after them.
const REFUSED: &[&str] = &[
    "claim_unknown",
    "claim_wrong_token",
    "claim_used",
    "claim_late",
    "claim_wrong_labor",
    "claim_batch_full",
    "claim_not_proved",
    "claim_busy",
    "claim_unreadable",
    "version",
    "malformed",
    "signing_request",
    "fleet_not_there",
    "life_over",
    "store",
];

/// What the fleets of a control plane have in common.
#[derive(Debug)]
pub(crate) struct PlaneMetrics {
    /// They outlive their fleets: a counter should not fall because a fleet was started again.
    pub(super) fleets: RwLock<BTreeMap<FleetName, Arc<FleetMetrics>>>,
    pub(crate) joined: AtomicU64,
    pub(crate) refused: Counts,
    pub(crate) logs: Arc<LogMetrics>,
    pub(super) tracer: Option<Tracer>,
}

/// What the logs of all fleets count.
#[derive(Debug, Default)]
pub(crate) struct LogMetrics {
    pub(crate) bytes: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) gap_bytes: AtomicU64,
}

impl PlaneMetrics {
    pub(crate) fn new(logs: Arc<LogMetrics>, tracer: Option<Tracer>) -> Self {
        let refused = Counts::new(REFUSED);
        Self { fleets: RwLock::default(), joined: AtomicU64::new(0), refused, logs, tracer }
    }

    /// Those of a fleet, made where there are none.
    pub(crate) fn fleet(&self, name: &FleetName) -> Arc<FleetMetrics> {
        let mut fleets = self.fleets.write();
        if fleets.len() >= FLEETS && !fleets.contains_key(name) {
            fleets.retain(|_, metrics| Arc::strong_count(metrics) > 1);
        }
        Arc::clone(fleets.entry(name.clone()).or_default())
    }
}
