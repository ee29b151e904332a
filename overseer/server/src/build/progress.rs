//! What telemetry says of the steps of the jobs that run.

use std::collections::HashMap;
use std::sync::Arc;

use overseer::fleet::FleetHandle;
use overseer::{Body, LaborId};
use overseer_builder::api::{STEP_FINISHED, STEP_STARTED, StepFinished, StepStarted};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One try of a job.
#[derive(Debug)]
pub(super) struct Progress {
    labor: LaborId,
    pub(super) seen: watch::Sender<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Steps that began, in order, each with its place in the log.
    pub(super) started: Vec<StepStarted>,
    /// How many have ended, as far as is known.
    pub(super) finished: u32,
    /// No step begins before this place in the log but those in `started`.
    pub(super) complete_to: u64,
}

/// The jobs that run, by name, for the telemetry to find.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<String, Arc<Progress>>>);

impl Running {
    /// A job begins on a labor.
    pub(super) fn begin(&self, job: &str, labor: LaborId) -> Arc<Progress> {
        let progress = Arc::new(Progress { labor, seen: watch::Sender::default() });
        self.0.lock().insert(job.to_owned(), Arc::clone(&progress));
        progress
    }

    fn find(&self, job: &str, labor: LaborId) -> Option<Arc<Progress>> {
        self.0.lock().get(job).filter(|progress| progress.labor == labor).cloned()
    }

    /// Follows the telemetry of a fleet, for as long as it lives.
    pub(super) fn follow(self: &Arc<Self>, fleet: &FleetHandle) -> JoinHandle<()> {
        let mut telemetry = fleet.telemetry();
        let running = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(batch) = telemetry.next().await {
                for record in batch.iter() {
                    if let Body::Event { name, data } = record.body {
                        running.on_event(name, data, batch.labor);
                    }
                }
            }
        })
    }

    fn on_event(&self, name: &str, data: &[u8], labor: LaborId) {
        // An event that cannot be read is of a newer builder; it is shown by none.
        if name == STEP_STARTED
            && let Ok(started) = serde_json::from_slice::<StepStarted>(data)
            && let Some(progress) = self.find(&started.job, labor)
        {
            progress.seen.send_modify(|seen| {
                seen.complete_to = seen.complete_to.max(started.offset);
                seen.started.push(started);
            });
        } else if name == STEP_FINISHED
            && let Ok(StepFinished { job, step, offset, .. }) = serde_json::from_slice(data)
            && let Some(progress) = self.find(&job, labor)
        {
            progress.seen.send_modify(|seen| {
                seen.finished = seen.finished.max(step + 1);
                seen.complete_to = seen.complete_to.max(offset);
            });
        }
    }
}
