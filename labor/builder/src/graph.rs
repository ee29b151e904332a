//! Which job of a plan may run now: a pure state machine, fed by who runs the jobs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::api::RunOutcome;
use crate::plan::{JobId, Plan};

/// How often a job is given to another labor after its own was lost.
pub const MAX_LOSSES: u32 = 3;

/// What a run of a job came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// Every step passed.
    Passed,
    /// A step, an artifact or the machinery failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl From<&RunOutcome> for JobOutcome {
    fn from(outcome: &RunOutcome) -> Self {
        match outcome {
            RunOutcome::Passed => Self::Passed,
            RunOutcome::Failed(_) => Self::Failed,
            RunOutcome::Cancelled => Self::Cancelled,
        }
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum JobState {
    /// For its needs.
    Waiting,
    /// All needs passed; nobody runs it.
    Ready,
    /// It runs.
    Running {
        /// Which try it is, from 1.
        attempt: u32,
    },
    /// It ended by itself.
    Ended {
        /// How.
        outcome: JobOutcome,
    },
    /// Its labor was lost more than [`MAX_LOSSES`] times.
    Lost,
    /// It never ran, for a job that it needs did not pass.
    Skipped {
        /// The job that failed, was lost or was cancelled: the root of it.
        because: JobId,
    },
    /// The build was cancelled before it ran.
    NotRun,
}

impl JobState {
    /// Whether nothing more happens to the job.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Ready | Self::Running { .. })
    }
}

/// Why a plan or an event makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A job's id is not its place.
    #[error("the plan's job {0} is not at its place; use the plan as `plan` returned it")]
    BadId(JobId),
    /// A need that is not in the plan.
    #[error("job {0} of the plan needs {1}, which is not in it; use the plan as `plan` returned it")]
    UnknownNeed(JobId, JobId),
    /// Jobs need each other.
    #[error("job {0} of the plan needs itself through others; use the plan as `plan` returned it")]
    Cycle(JobId),
    /// There is no such job.
    #[error("there is no job {0} in the plan")]
    UnknownJob(JobId),
    /// The job cannot do that now.
    #[error("job {job} cannot be {event} while it is {state:?}; feed each event once, in order")]
    OutOfOrder {
        /// Which.
        job: JobId,
        /// What was said of it.
        event: &'static str,
        /// Where it is.
        state: JobState,
    },
}

/// What became of a job whose labor was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterLoss {
    /// It is ready again.
    Again,
    /// It was lost too often; these are skipped with it, ascending.
    GivenUp(Vec<JobId>),
}

/// How a build ended. Every job of the plan is in one of the lists, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Passed.
    pub passed: Vec<JobId>,
    /// Failed.
    pub failed: Vec<JobId>,
    /// Lost too often.
    pub lost: Vec<JobId>,
    /// Not run, with the job that is the reason.
    pub skipped: Vec<(JobId, JobId)>,
    /// Cancelled, or not run as the build was cancelled.
    pub cancelled: Vec<JobId>,
}

impl Summary {
    /// Whether every job passed.
    pub fn all_passed(&self) -> bool {
        self.failed.is_empty() && self.lost.is_empty() && self.skipped.is_empty() && self.cancelled.is_empty()
    }
}

#[derive(Debug, Clone)]
struct Node {
    state: JobState,
    attempts: u32,
    missing: usize,
    needed_by: Vec<JobId>,
}

/// The jobs of one build and where they are.
#[derive(Debug, Clone)]
pub struct Graph {
    nodes: Vec<Node>,
    ready: BTreeSet<JobId>,
    open: usize,
    cancelled: bool,
}

impl Graph {
    /// Begins a plan.
    ///
    /// # Errors
    /// A plan that no build file gives: bad ids, unknown needs, a cycle.
    pub fn new(plan: &Plan) -> Result<Self, GraphError> {
        let fresh = Node { state: JobState::Waiting, attempts: 0, missing: 0, needed_by: vec![] };
        let mut nodes = vec![fresh; plan.jobs.len()];
        for (i, job) in plan.jobs.iter().enumerate() {
            if job.id.index() != i {
                return Err(GraphError::BadId(job.id));
            }
            let needs: BTreeSet<JobId> = job.needs.iter().copied().collect();
            nodes[i].missing = needs.len();
            for need in needs {
                let node = nodes.get_mut(need.index()).ok_or(GraphError::UnknownNeed(job.id, need))?;
                node.needed_by.push(job.id);
            }
        }
        let mut graph = Self { ready: BTreeSet::new(), open: nodes.len(), nodes, cancelled: false };
        graph.refuse_cycles()?;
        for i in 0..graph.nodes.len() {
            if graph.nodes[i].missing == 0 {
                graph.make_ready(plan.jobs[i].id);
            }
        }
        Ok(graph)
    }

    /// The jobs that may start now, ascending.
    pub fn ready(&self) -> Vec<JobId> {
        self.ready.iter().copied().collect()
    }

    /// Where a job is.
    pub fn state(&self, job: JobId) -> Option<JobState> {
        self.nodes.get(job.index()).map(|node| node.state)
    }

    /// A ready job was given to a labor; answers which try it is, from 1.
    ///
    /// # Errors
    /// When the job is not ready.
    pub fn started(&mut self, job: JobId) -> Result<u32, GraphError> {
        let node = self.node(job)?;
        if node.state != JobState::Ready {
            return Err(GraphError::OutOfOrder { job, event: "started", state: node.state });
        }
        node.attempts += 1;
        let attempt = node.attempts;
        node.state = JobState::Running { attempt };
        self.ready.remove(&job);
        Ok(attempt)
    }

    /// A running job ended; answers the jobs that are skipped by it, ascending.
    ///
    /// # Errors
    /// When the job does not run.
    pub fn finished(&mut self, job: JobId, outcome: JobOutcome) -> Result<Vec<JobId>, GraphError> {
        self.expect_running(job, "finished")?;
        self.end(job, JobState::Ended { outcome });
        if outcome != JobOutcome::Passed {
            return Ok(self.skip_after(job));
        }
        for next in self.nodes[job.index()].needed_by.clone() {
            let node = &mut self.nodes[next.index()];
            node.missing -= 1;
            if node.missing == 0 && node.state == JobState::Waiting {
                self.make_ready(next);
            }
        }
        Ok(vec![])
    }

    /// A running job's labor is gone: the job is ready again, [`MAX_LOSSES`] times.
    ///
    /// # Errors
    /// When the job does not run.
    pub fn lost(&mut self, job: JobId) -> Result<AfterLoss, GraphError> {
        let attempts = self.expect_running(job, "lost")?;
        if self.cancelled {
            self.end(job, JobState::Ended { outcome: JobOutcome::Cancelled });
            return Ok(AfterLoss::GivenUp(vec![]));
        }
        if attempts > MAX_LOSSES {
            self.end(job, JobState::Lost);
            return Ok(AfterLoss::GivenUp(self.skip_after(job)));
        }
        self.make_ready(job);
        Ok(AfterLoss::Again)
    }

    /// The build is cancelled: nothing starts any more. Answers the jobs that run, ascending;
    /// each still ends by [`finished`](Self::finished) or [`lost`](Self::lost).
    pub fn cancel(&mut self) -> Vec<JobId> {
        self.cancelled = true;
        self.ready.clear();
        let mut running = Vec::new();
        for i in 0..self.nodes.len() {
            let job = id(i);
            match self.nodes[i].state {
                JobState::Running { .. } => running.push(job),
                state if !state.is_final() => self.end(job, JobState::NotRun),
                _ => {}
            }
        }
        running
    }

    /// How it ended; `None` while a job is not at its end.
    pub fn done(&self) -> Option<Summary> {
        if self.open > 0 {
            return None;
        }
        let mut summary = Summary::default();
        for (i, node) in self.nodes.iter().enumerate() {
            let list = match node.state {
                JobState::Ended { outcome: JobOutcome::Passed } => &mut summary.passed,
                JobState::Ended { outcome: JobOutcome::Failed } => &mut summary.failed,
                JobState::Lost => &mut summary.lost,
                JobState::Skipped { because } => {
                    summary.skipped.push((id(i), because));
                    continue;
                }
                _ => &mut summary.cancelled,
            };
            list.push(id(i));
        }
        Some(summary)
    }

    fn node(&mut self, job: JobId) -> Result<&mut Node, GraphError> {
        self.nodes.get_mut(job.index()).ok_or(GraphError::UnknownJob(job))
    }

    fn expect_running(&mut self, job: JobId, event: &'static str) -> Result<u32, GraphError> {
        match self.node(job)?.state {
            JobState::Running { attempt } => Ok(attempt),
            state => Err(GraphError::OutOfOrder { job, event, state }),
        }
    }

    fn make_ready(&mut self, job: JobId) {
        self.nodes[job.index()].state = JobState::Ready;
        self.ready.insert(job);
    }

    fn end(&mut self, job: JobId, state: JobState) {
        self.nodes[job.index()].state = state;
        self.open -= 1;
    }

    /// Skips everything that needs the job, directly or through others.
    fn skip_after(&mut self, because: JobId) -> Vec<JobId> {
        let mut skipped = BTreeSet::new();
        let mut next = self.nodes[because.index()].needed_by.clone();
        while let Some(job) = next.pop() {
            if self.nodes[job.index()].state == JobState::Waiting {
                self.end(job, JobState::Skipped { because });
                skipped.insert(job);
                next.extend_from_slice(&self.nodes[job.index()].needed_by);
            }
        }
        skipped.into_iter().collect()
    }

    fn refuse_cycles(&self) -> Result<(), GraphError> {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.missing).collect();
        let mut free: Vec<usize> = (0..missing.len()).filter(|i| missing[*i] == 0).collect();
        while let Some(i) = free.pop() {
            for next in &self.nodes[i].needed_by {
                missing[next.index()] -= 1;
                if missing[next.index()] == 0 {
                    free.push(next.index());
                }
            }
        }
        match missing.iter().position(|m| *m > 0) {
            Some(i) => Err(GraphError::Cycle(id(i))),
            None => Ok(()),
        }
    }
}

fn id(index: usize) -> JobId {
    JobId(u32::try_from(index).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
