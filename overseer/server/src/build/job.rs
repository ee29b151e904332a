//! One try of one job on a labor: its call, its log, its artifacts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overseer::fleet::FleetHandle;
use overseer::labor::OpenCall;
use overseer::logs::{LogPiece, LogReader};
use overseer::{Body, ControlPlane, LaborId};
use overseer_builder::api::{
    Failure, FailureReason, JobReport, LOG_STREAM, RunOutcome, STEP_FINISHED, STEP_STARTED, StepFinished,
    StepStarted,
};
use overseer_builder::plan::Job;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::artifacts::OutDirectory;
use super::event::{Event, JobFailure, JobResult, Listener, Outcome};
use super::lines::Lines;

/// How long the end of a log is waited for after the job has answered.
const LOG_END: Duration = Duration::from_secs(5);
/// The same after its labor was lost: what was sent before is here already.
const LOST_LOG_END: Duration = Duration::from_millis(100);
/// How long the first bytes of a log wait for word of the step that wrote them.
const FIRST_STEP: Duration = Duration::from_millis(50);

/// What telemetry says of one try of a job.
#[derive(Debug)]
pub(super) struct Progress {
    labor: LaborId,
    seen: watch::Sender<Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Steps that began.
    started: u32,
    /// The last step that ended, from 0, and the bytes in the log by then.
    finished: Option<(u32, u64)>,
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
    pub(super) fn follow(
        self: &Arc<Self>,
        fleet: &FleetHandle,
        listener: Arc<dyn Listener>,
    ) -> JoinHandle<()> {
        let mut telemetry = fleet.telemetry();
        let running = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(batch) = telemetry.next().await {
                for record in batch.iter() {
                    if let Body::Event { name, data } = record.body {
                        running.on_event(name, data, batch.labor, &*listener);
                    }
                }
            }
        })
    }

    fn on_event(&self, name: &str, data: &[u8], labor: LaborId, listener: &dyn Listener) {
        // An event that cannot be read is of a newer builder; it is shown by none.
        if name == STEP_STARTED
            && let Ok(StepStarted { job, step, steps, command, .. }) = serde_json::from_slice(data)
            && let Some(progress) = self.find(&job, labor)
        {
            listener.on(&Event::Step { job: &job, step: step + 1, steps, command: &command });
            progress.seen.send_modify(|seen| seen.started = step + 1);
        } else if name == STEP_FINISHED
            && let Ok(StepFinished { job, step, offset, .. }) = serde_json::from_slice(data)
            && let Some(progress) = self.find(&job, labor)
        {
            progress.seen.send_modify(|seen| seen.finished = Some((step, offset)));
        }
    }
}

/// Where a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogState {
    Open,
    Ended,
}

/// Follows the log of a call to its end.
pub(super) struct LogFollower {
    state: watch::Receiver<LogState>,
    task: JoinHandle<()>,
}

impl LogFollower {
    /// Begins to follow.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn start(
        fleet: &FleetHandle,
        call: &OpenCall,
        job: &str,
        progress: &Progress,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, overseer::logs::LogError> {
        let reader = fleet.logs(call.log(LOG_STREAM), 0).await?;
        let (tell, state) = watch::channel(LogState::Open);
        let (job, seen) = (job.to_owned(), progress.seen.subscribe());
        let task = tokio::spawn(async move {
            let shown = show(reader, &job, seen, &*listener).await;
            if let Err(error) = shown {
                listener.on(&Event::Warning { job: Some(&job), message: &error.to_string() });
            }
            tell.send_replace(LogState::Ended);
        });
        Ok(Self { state, task })
    }

    /// Waits until all of the log was shown. A log without a byte has no end, so word of its
    /// last step has to do.
    pub(super) async fn end(mut self, steps: usize, progress: &Progress, most: Duration) {
        let mut seen = progress.seen.subscribe();
        let last = u32::try_from(steps).unwrap_or(u32::MAX);
        let silent = async {
            let all = seen.wait_for(|seen| seen.finished.is_some_and(|(step, _)| step + 1 >= last)).await;
            let is_silent = all.is_ok_and(|seen| seen.finished.is_some_and(|(_, offset)| offset == 0));
            if !is_silent {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = self.state.wait_for(|state| *state == LogState::Ended) => {}
            () = silent, if steps > 0 => {}
            () = std::future::ready(()), if steps == 0 => {}
            () = tokio::time::sleep(most) => tracing::debug!("the end of a log was not seen"),
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn show(
    mut reader: LogReader,
    job: &str,
    mut seen: watch::Receiver<Seen>,
    listener: &dyn Listener,
) -> Result<(), overseer::logs::LogError> {
    let mut lines = Partial { lines: Lines::default(), job, listener };
    let mut first = true;
    while let Some(piece) = reader.next().await? {
        if std::mem::take(&mut first) {
            // Telemetry lingers a little: without this, output comes before its step.
            let _ = tokio::time::timeout(FIRST_STEP, seen.wait_for(|seen| seen.started > 0)).await;
        }
        let complete = match piece {
            LogPiece::Data { bytes, .. } => lines.lines.push(&bytes),
            LogPiece::Gap { length, .. } => vec![format!("[{length} bytes of the log are lost]")],
        };
        if !complete.is_empty() {
            listener.on(&Event::Log { job, lines: &complete });
        }
    }
    Ok(())
}

/// Lines whose last, incomplete one is shown when the log ends, however it ends.
struct Partial<'a> {
    lines: Lines,
    job: &'a str,
    listener: &'a dyn Listener,
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if let Some(rest) = self.lines.take() {
            self.listener.on(&Event::Log { job: self.job, lines: &[rest] });
        }
    }
}

/// What is left to do when a job has answered.
pub(super) struct Settle {
    pub(super) follower: Option<LogFollower>,
    pub(super) progress: Arc<Progress>,
    pub(super) started: Instant,
    pub(super) attempt: u32,
}

impl Settle {
    /// After a report: shows the rest of the log, copies the artifacts.
    pub(super) async fn report(
        self,
        job: &Job,
        report: JobReport,
        plane: &ControlPlane,
        out: &OutDirectory,
    ) -> JobResult {
        let ms = elapsed(self.started);
        if let Some(follower) = self.follower {
            follower.end(report.steps.len(), &self.progress, LOG_END).await;
        }
        let mut result = JobResult {
            job: job.name.clone(),
            result: Outcome::Passed,
            ms,
            attempts: self.attempt,
            steps: report.steps,
            artifacts: vec![],
            cache: report.cache,
            failure: None,
        };
        match report.outcome {
            RunOutcome::Passed => match out.save(&job.name, &report.artifacts, plane.blobs()).await {
                Ok(saved) => result.artifacts = saved,
                Err(error) => {
                    result.result = Outcome::Fault;
                    result.failure = Some(plain(error.to_string()));
                }
            },
            RunOutcome::Failed(failure) => {
                result.result = Outcome::Failed;
                result.failure = Some(describe(job, failure));
            }
            RunOutcome::Cancelled => result.result = Outcome::Cancelled,
        }
        result
    }

    /// After a call that gave no report.
    pub(super) async fn error(self, job: &Job, outcome: Outcome, message: Option<String>) -> JobResult {
        let ms = elapsed(self.started);
        if let Some(follower) = self.follower {
            follower.end(usize::MAX, &self.progress, LOST_LOG_END).await;
        }
        let result = JobResult::without_report(&job.name, outcome, message);
        JobResult { ms, attempts: self.attempt, ..result }
    }
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn plain(message: String) -> JobFailure {
    JobFailure { message, command: None, tail: vec![] }
}

/// A job's failure in a sentence.
fn describe(job: &Job, failure: Failure) -> JobFailure {
    let what = match &failure.reason {
        FailureReason::Exit { code } => format!("exited with code {code}"),
        FailureReason::Signal { signal } => format!("was ended by signal {signal}"),
        FailureReason::Timeout { after_ms } => {
            format!("still ran when the job's timeout of {} s was over", after_ms / 1000)
        }
        FailureReason::Artifacts { message } => {
            return JobFailure { tail: failure.tail, ..plain(message.clone()) };
        }
    };
    let command = failure.step.and_then(|step| job.steps.get(step as usize)).cloned();
    let step = failure.step.map_or(0, |step| step + 1);
    let message = format!("step {step} of {} {what}", job.steps.len());
    JobFailure { message, command, tail: failure.tail }
}
