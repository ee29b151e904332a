//! Gives the jobs of a plan to labors until nothing is left to do. What may run when is the
//! graph's to say; this starts labors as they are needed, and carries messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overseer::call::CallError;
use overseer::labor::Canceller;
use overseer::{CallErrorCode, CallOptions, ControlPlane, Labor};
use overseer_builder::api::{Artifact, JobReport, NeedArtifacts, PlanReport, RunRequest};
use overseer_builder::graph::{AfterLoss, Graph, JobOutcome, JobState};
use overseer_builder::plan::{Job, JobId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::artifacts::OutDirectory;
use super::error::{fault, is_loss, loss_cause};
use super::event::{Event, JobResult, Listener, Outcome};
use super::follow::LogFollower;
use super::interrupt::Interrupt;
use super::job::Settle;
use super::progress::Running;
use super::request::Request;
use super::site::{Site, no_labor, usable};
use crate::failure::Failure;

/// Messages of tasks that wait for the loop; then the tasks wait.
const MESSAGES: usize = 64;
/// How long cancelled jobs may take to answer.
const CANCEL: Duration = Duration::from_secs(10);
/// Longest wait for a labor that has lost its session to be seen as lost.
const SEEN: Duration = Duration::from_secs(1);

/// What tasks tell the loop.
enum Message {
    /// A labor takes calls.
    Idle(Labor),
    /// A labor has ended for good, or cannot be started.
    Gone(Failure),
    /// A job's call is over; its labor is free.
    Answered(JobId, Labor, Box<Result<JobReport, CallError>>, Box<Settle>),
    /// All that follows a job's answer is done.
    Settled(JobId, JobResult),
}

/// The jobs of one build while they run.
pub(super) struct Run<'a> {
    pub(super) site: &'a Site,
    pub(super) request: &'a Request,
    pub(super) report: &'a PlanReport,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) nodes: usize,
}

struct State {
    plane: ControlPlane,
    graph: Graph,
    idle: Vec<Labor>,
    /// Labors that exist: idle, at work, or on their way.
    labors: usize,
    calls: HashMap<JobId, Canceller>,
    /// Jobs that have answered and wait for their log and artifacts.
    settling: usize,
    reports: HashMap<JobId, Vec<Artifact>>,
    results: Vec<Option<JobResult>>,
    tasks: JoinSet<()>,
    send: mpsc::Sender<Message>,
    running: Arc<Running>,
    /// Labors that could not be had; so many fewer are asked for.
    gone: usize,
}

impl Run<'_> {
    /// Runs the jobs, beginning on the labor that is there; gives their results in the plan's
    /// order.
    ///
    /// # Errors
    /// Faults that concern no job: no labor can be had, or the plan makes no sense.
    pub(super) async fn jobs(&self, first: Labor) -> Result<Vec<JobResult>, Failure> {
        let (send, mut receive) = mpsc::channel(MESSAGES);
        let mut state = State {
            plane: self.site.plane.clone(),
            graph: Graph::new(&self.report.plan).map_err(bad_graph)?,
            idle: vec![first],
            labors: 1,
            calls: HashMap::new(),
            settling: 0,
            reports: HashMap::new(),
            results: vec![None; self.report.plan.jobs.len()],
            tasks: JoinSet::new(),
            send,
            running: Arc::default(),
            gone: 0,
        };
        let telemetry = state.running.follow(&self.site.fleet);
        let mut give_up: Option<tokio::time::Instant> = None;
        while state.graph.done().is_none() || state.settling > 0 {
            if give_up.is_none() {
                self.assign(&mut state).await?;
            }
            tokio::select! {
                message = receive.recv() => match message {
                    Some(message) => self.on_message(&mut state, message)?,
                    // This loop holds a sender.
                    None => break,
                },
                _ = self.interrupt.wait(), if give_up.is_none() => {
                    state.graph.cancel();
                    state.calls.values().for_each(Canceller::cancel);
                    give_up = Some(tokio::time::Instant::now() + CANCEL);
                }
                () = sleep_until(give_up.unwrap_or_else(tokio::time::Instant::now)), if give_up.is_some() => {
                    tracing::warn!("jobs did not end when they were cancelled; their labors are ended");
                    break;
                }
            }
        }
        telemetry.abort();
        let State { results, graph, .. } = state;
        let results = results.into_iter().zip(&self.report.plan.jobs);
        Ok(results.map(|(result, job)| result.unwrap_or_else(|| self.without_end(job, &graph))).collect())
    }

    /// A job of a cancelled build that was never started, or not waited for.
    fn without_end(&self, job: &Job, graph: &Graph) -> JobResult {
        let started = matches!(graph.state(job.id), Some(JobState::Running { .. }));
        let outcome = if started { Outcome::Cancelled } else { Outcome::NotRun };
        let result = JobResult::without_report(&job.name, outcome, None);
        self.listener.on(&Event::JobFinished(&result));
        result
    }

    /// Starts what may run, and labors where there are too few.
    async fn assign(&self, state: &mut State) -> Result<(), Failure> {
        for id in state.graph.ready() {
            let Some(labor) = state.idle.pop() else { break };
            self.start(state, id, labor).await?;
        }
        let wanted =
            (state.calls.len() + state.graph.ready().len()).min(self.nodes.saturating_sub(state.gone));
        let missing = wanted.saturating_sub(state.labors);
        if missing > 0 {
            match self.site.fleet.start_children(missing).await {
                Ok(labors) => {
                    state.labors += labors.len();
                    labors.into_iter().for_each(|labor| state.await_labor(labor));
                }
                // With one labor the build goes on, just not as fast.
                Err(error) if state.labors > 0 => tracing::debug!(%error, "no further labors"),
                Err(error) => return Err(no_labor(&error.to_string())),
            }
        }
        Ok(())
    }

    async fn start(&self, state: &mut State, id: JobId, labor: Labor) -> Result<(), Failure> {
        let Some(job) = self.report.plan.job(id) else { return Ok(()) };
        let payload =
            serde_json::to_vec(&self.run_request(state, job)).map_err(|e| bad_graph(e.to_string()))?;
        // A job runs as long as its own timeout lets it.
        let options = CallOptions::default().run(None);
        let seen = labor.status();
        let call = match labor.start_call("run", payload, options).await {
            Ok(call) => call,
            Err(error) if is_loss(&error) => {
                // Nothing has run. The labor comes back when its fate is known.
                state.await_change(labor, seen);
                return Ok(());
            }
            Err(error) => {
                return Err(Failure::fault(
                    error.code(),
                    format!("job {} was not started: {error}", job.name),
                ));
            }
        };
        let attempt = state.graph.started(id).map_err(bad_graph)?;
        self.listener.on(&Event::JobStarted { job: &job.name, attempt, labor: labor.id().to_string() });
        let progress = state.running.begin(&job.name, labor.id());
        let follower =
            LogFollower::start(&self.site.fleet, &call, &job.name, &progress, Arc::clone(&self.listener));
        let follower = match follower.await {
            Ok(follower) => Some(follower),
            Err(error) => {
                self.listener.on(&Event::Warning { job: Some(&job.name), message: &error.to_string() });
                None
            }
        };
        state.calls.insert(id, call.canceller());
        let settle = Box::new(Settle { follower, started: Instant::now(), attempt });
        let send = state.send.clone();
        state.tasks.spawn(async move {
            let answer = call.answer().await.and_then(|bytes| decode(&bytes));
            // The loop is over where nobody listens.
            let _ = send.send(Message::Answered(id, labor, Box::new(answer), settle)).await;
        });
        Ok(())
    }

    fn run_request(&self, state: &State, job: &Job) -> RunRequest {
        let needs = job.needs.iter().filter_map(|need| {
            let files = state.reports.get(need)?.clone();
            Some(NeedArtifacts { job: self.report.plan.job(*need)?.name.clone(), files })
        });
        RunRequest {
            source: self.request.source.clone(),
            commit: self.report.commit.clone(),
            worktree: self.request.worktree,
            job: job.clone(),
            needs: needs.collect(),
            cache_dir: Some(self.request.cache.clone()),
        }
    }

    fn on_message(&self, state: &mut State, message: Message) -> Result<(), Failure> {
        match message {
            Message::Idle(labor) => state.idle.push(labor),
            Message::Gone(why) => {
                state.labors = state.labors.saturating_sub(1);
                tracing::warn!("a labor less: {}", why.message);
                if state.labors == 0 && state.calls.is_empty() {
                    return Err(why);
                }
                state.gone += 1;
            }
            Message::Settled(id, result) => {
                state.settling = state.settling.saturating_sub(1);
                self.listener.on(&Event::JobFinished(&result));
                state.results[id.index()] = Some(result);
            }
            Message::Answered(id, labor, answer, settle) => {
                state.calls.remove(&id);
                self.answered(state, id, labor, *answer, *settle)?;
            }
        }
        Ok(())
    }

    /// The graph goes on at once; log and artifacts of the job follow.
    fn answered(
        &self,
        state: &mut State,
        id: JobId,
        labor: Labor,
        answer: Result<JobReport, CallError>,
        settle: Settle,
    ) -> Result<(), Failure> {
        let Some(job) = self.report.plan.job(id).cloned() else { return Ok(()) };
        match answer {
            Ok(report) => {
                state.idle.push(labor);
                for message in &report.warnings {
                    self.listener.on(&Event::Warning { job: Some(&job.name), message });
                }
                state.reports.insert(id, report.artifacts.clone());
                let skipped =
                    state.graph.finished(id, JobOutcome::from(&report.outcome)).map_err(bad_graph)?;
                self.skip(state, &job.name, skipped);
                let (plane, out) = (self.site.plane.clone(), self.request.out.clone());
                state
                    .settle(id, async move { settle.report(&job, report, &plane, &OutDirectory(out)).await });
            }
            Err(error) if is_loss(&error) => {
                state.await_labor(labor);
                let cause = loss_cause(&error);
                let after = state.graph.lost(id).map_err(bad_graph)?;
                let again = after == AfterLoss::Again;
                let attempt = settle.attempt;
                self.listener.on(&Event::JobLost { job: &job.name, attempt, cause: &cause, again });
                if let AfterLoss::GivenUp(skipped) = after {
                    self.skip(state, &job.name, skipped);
                    let cancelled = self.interrupt.seen().is_some();
                    let outcome = if cancelled { Outcome::Cancelled } else { Outcome::Lost };
                    let message = (!cancelled).then(|| format!("given up after {attempt} tries: {cause}"));
                    state.settle(id, async move { settle.error(&job, outcome, message).await });
                }
            }
            Err(error) => {
                state.idle.push(labor);
                let cancelled = matches!(&error, CallError::Answered { code: CallErrorCode::Cancelled, .. });
                let (outcome, in_graph) = if cancelled {
                    (Outcome::Cancelled, JobOutcome::Cancelled)
                } else {
                    (Outcome::Fault, JobOutcome::Failed)
                };
                let skipped = state.graph.finished(id, in_graph).map_err(bad_graph)?;
                self.skip(state, &job.name, skipped);
                let message = (!cancelled).then(|| fault(&error));
                state.settle(id, async move { settle.error(&job, outcome, message).await });
            }
        }
        Ok(())
    }

    fn skip(&self, state: &mut State, because: &str, skipped: Vec<JobId>) {
        for id in skipped {
            let Some(job) = self.report.plan.job(id) else { continue };
            let message = format!("it needs {because}, which did not pass");
            let result = JobResult::without_report(&job.name, Outcome::Skipped, Some(message));
            self.listener.on(&Event::JobFinished(&result));
            state.results[id.index()] = Some(result);
        }
    }
}

impl State {
    /// Runs what follows a job's answer.
    fn settle(&mut self, id: JobId, work: impl Future<Output = JobResult> + Send + 'static) {
        self.settling += 1;
        let send = self.send.clone();
        self.tasks.spawn(async move {
            let result = work.await;
            let _ = send.send(Message::Settled(id, result)).await;
        });
    }

    /// Says when a labor takes calls, over its restarts.
    fn await_labor(&mut self, labor: Labor) {
        self.await_after(std::future::ready(()), labor);
    }

    /// As [`State::await_labor`], for one whose status does not show yet that it takes none.
    fn await_change(&mut self, labor: Labor, seen: overseer::Status) {
        let watched = labor.clone();
        let change = async move {
            let _ = tokio::time::timeout(SEEN, watched.wait_for(|status| *status != seen)).await;
        };
        self.await_after(change, labor);
    }

    fn await_after(&mut self, before: impl Future<Output = ()> + Send + 'static, labor: Labor) {
        let (send, plane) = (self.send.clone(), self.plane.clone());
        self.tasks.spawn(async move {
            before.await;
            let message = match usable(&plane, &labor).await {
                Ok(()) => Message::Idle(labor),
                Err(why) => Message::Gone(why),
            };
            let _ = send.send(message).await;
        });
    }
}

fn decode(bytes: &[u8]) -> Result<JobReport, CallError> {
    overseer_plugin::codec::decode(bytes).map_err(|e| CallError::Codec { what: "result", reason: e.message })
}

fn bad_graph(error: impl std::fmt::Display) -> Failure {
    Failure::fault("build.graph", error.to_string())
}
