//! What happens in a build, as people and programs are told.

use overseer_builder::api::{CacheReport, PlanOrigin, StepReport};
use serde::Serialize;

/// Somebody who is told what happens; may be called from many tasks at once.
pub(super) trait Listener: Send + Sync {
    /// Something happened.
    fn on(&self, event: &Event<'_>);

    /// Nothing more will happen, whether the build came to its end or not.
    fn close(&self) {}
}

/// Something that happened in a build.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The commit was found and its jobs are known.
    Plan(Planned<'a>),
    /// What the user should know.
    Warning {
        /// The job that it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<&'a str>,
        /// A sentence.
        message: &'a str,
    },
    /// A labor has taken a job.
    JobStarted {
        job: &'a str,
        /// Which try, from 1.
        attempt: u32,
        labor: String,
    },
    /// A step of a job begins.
    Step {
        job: &'a str,
        /// From 1.
        step: u32,
        /// Of how many.
        steps: u32,
        command: &'a str,
    },
    /// Complete lines of a job's log.
    Log { job: &'a str, lines: &'a [String] },
    /// A job's labor is gone.
    JobLost {
        job: &'a str,
        attempt: u32,
        cause: &'a str,
        /// Whether the job runs again.
        again: bool,
    },
    /// Nothing more happens to a job; its log is complete and its artifacts are there.
    JobFinished(&'a JobResult),
    /// The build is over.
    Finished(Totals<'a>),
}

/// The commit and its jobs.
#[derive(Debug, Serialize)]
pub(super) struct Planned<'a> {
    pub(super) commit: &'a str,
    pub(super) short: &'a str,
    pub(super) tree: &'a str,
    pub(super) subject: &'a str,
    pub(super) dirty: bool,
    pub(super) worktree: bool,
    pub(super) from: &'a PlanOrigin,
    pub(super) jobs: Vec<PlannedJob<'a>>,
    /// Most labors at a time.
    pub(super) nodes: usize,
}

/// A job of the plan.
#[derive(Debug, Serialize)]
pub(super) struct PlannedJob<'a> {
    pub(super) job: &'a str,
    pub(super) needs: Vec<&'a str>,
    pub(super) steps: usize,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Passed,
    /// By a step or an artifact of its own.
    Failed,
    Cancelled,
    /// A job that it needs did not pass.
    Skipped,
    /// The build was cancelled before it ran.
    NotRun,
    /// Its labors were lost, time and again.
    Lost,
    /// The machinery failed.
    Fault,
}

impl Outcome {
    /// As in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::NotRun => "not run",
            Self::Lost => "lost",
            Self::Fault => "fault",
        }
    }
}

/// A job that has ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct JobResult {
    pub(super) job: String,
    pub(super) result: Outcome,
    /// From its start on a labor to its answer, in milliseconds; of the last try.
    pub(super) ms: u64,
    pub(super) attempts: u32,
    pub(super) steps: Vec<StepReport>,
    pub(super) artifacts: Vec<SavedArtifact>,
    pub(super) cache: CacheReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<JobFailure>,
}

impl JobResult {
    /// Of a job that did not run to an end of its own.
    pub(super) fn without_report(job: &str, result: Outcome, failure: Option<String>) -> Self {
        let failure = failure.map(|message| JobFailure { message, command: None, tail: vec![] });
        Self {
            job: job.to_owned(),
            result,
            ms: 0,
            attempts: 0,
            steps: vec![],
            artifacts: vec![],
            cache: CacheReport::default(),
            failure,
        }
    }
}

/// Why a job did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct JobFailure {
    pub(super) message: String,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
    /// Its last lines.
    pub(super) tail: Vec<String>,
}

/// An artifact as it lies in the output directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct SavedArtifact {
    /// In the job's checkout.
    pub(super) path: String,
    /// Where it was copied to.
    pub(super) file: String,
    pub(super) size: u64,
    /// BLAKE3, 64 hexadecimal digits.
    pub(super) digest: String,
    /// Such as `0755`.
    pub(super) mode: String,
}

/// How the build ended.
#[derive(Debug, Serialize)]
pub(super) struct Totals<'a> {
    /// `passed`, `failed`, `fault`, `interrupted` or `terminated`.
    pub(super) result: &'static str,
    /// Exit code of the program.
    pub(super) exit: u8,
    pub(super) ms: u64,
    pub(super) jobs: usize,
    pub(super) passed: usize,
    pub(super) artifacts: usize,
    /// Where the artifacts are.
    pub(super) out: String,
    /// For the listeners here; programs have had each already.
    #[serde(skip)]
    pub(super) results: &'a [JobResult],
}
