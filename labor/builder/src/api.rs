//! What the plugin's methods take and give, as JSON.
//!
//! | method | takes | gives |
//! |---|---|---|
//! | `plan` | [`PlanRequest`] | [`PlanReply`] |
//! | `run` | [`RunRequest`] | [`JobReport`] |
//!
//! While `run` runs, the output of the steps is in the log stream [`LOG_STREAM`], and the
//! events [`STEP_STARTED`] and [`STEP_FINISHED`] say where in it each step begins and ends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::build_file::BuildFileError;
use crate::plan::{Job, Plan};

/// The log stream with what the steps write: both of their outputs, in order.
pub const LOG_STREAM: &str = "log";
/// Name of the event with [`StepStarted`].
pub const STEP_STARTED: &str = "step_started";
/// Name of the event with [`StepFinished`].
pub const STEP_FINISHED: &str = "step_finished";

/// Where a commit comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A repository on this machine: an absolute path to it or into it.
    Path(PathBuf),
    /// Anything that `git fetch` takes.
    Url(String),
}

/// Takes a revision, gives the jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The repository.
    pub source: Source,
    /// Branch, tag, commit or expression; `HEAD` when absent.
    #[serde(default)]
    pub rev: Option<String>,
    /// Plan what lies in the work tree instead of a commit; for a path only.
    #[serde(default)]
    pub worktree: bool,
    /// Where mirrors and caches are kept; see [`crate::cache_dir`] for the default.
    #[serde(default)]
    pub cache_dir: Option<PathBuf>,
}

/// What `plan` gives. A bad build file is an answer, so that it can be shown with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanReply {
    /// What is to be run.
    Planned(PlanReport),
    /// The build file has a mistake.
    BadBuildFile(BuildFileError),
}

/// A commit and its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// The whole id of the commit; with `worktree`, of the one checked out.
    pub commit: String,
    /// Its first 10 digits.
    pub short: String,
    /// Id of its tree.
    pub tree: String,
    /// First line of its message.
    pub subject: String,
    /// A path's work tree has changes or untracked files.
    pub dirty: bool,
    /// Where the jobs come from.
    pub from: PlanOrigin,
    /// The jobs.
    pub plan: Plan,
    /// What users should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Where a plan comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanOrigin {
    /// `.overseer.toml`.
    File,
    /// The repository has no build file; its kind, such as `Cargo`.
    Detected(String),
}

/// Runs one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The repository.
    pub source: Source,
    /// The whole id of the commit, as `plan` gave it.
    pub commit: String,
    /// Build what lies in the work tree of a path, not the commit.
    #[serde(default)]
    pub worktree: bool,
    /// The job, as `plan` gave it.
    pub job: Job,
    /// Artifacts of the jobs that it needs.
    #[serde(default)]
    pub needs: Vec<NeedArtifacts>,
    /// Where mirrors and caches are kept; see [`crate::cache_dir`] for the default.
    #[serde(default)]
    pub cache_dir: Option<PathBuf>,
}

/// What a needed job gave; laid into `needs/JOB/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedArtifacts {
    /// Its name.
    pub job: String,
    /// Its artifacts.
    pub files: Vec<Artifact>,
}

/// A file that a job gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the checkout's root, with `/`.
    pub path: String,
    /// Address in the Overseer's blobs.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// `0o755` for an executable, `0o644` else.
    pub mode: u32,
}

/// How a job went. A job that fails is a report too; only faults of the machinery are errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// How it ended.
    pub outcome: RunOutcome,
    /// The steps that began, in order.
    pub steps: Vec<StepReport>,
    /// What it gave, sorted by path; empty unless it passed.
    pub artifacts: Vec<Artifact>,
    /// What the cache did.
    pub cache: CacheReport,
    /// What users should know, a sentence each.
    pub warnings: Vec<String>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum RunOutcome {
    /// Every step passed, every artifact is there.
    Passed,
    /// A step or an artifact failed.
    Failed(Failure),
    /// The call was cancelled.
    Cancelled,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that ran, from 0; absent when none did, or when the artifacts failed.
    pub step: Option<u32>,
    /// Why.
    pub reason: FailureReason,
    /// Its last lines, about 30.
    pub tail: Vec<String>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum FailureReason {
    /// The step gave this code.
    Exit {
        /// Not 0.
        code: i32,
    },
    /// The step was ended by a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// The job ran longer than it may; the step is the one that ran then.
    Timeout {
        /// The job's timeout, in milliseconds.
        after_ms: u64,
    },
    /// An artifact is not there or may not be taken; or the checkout, in which it is looked for,
    /// cannot be made as the commit wants it or was taken away by a step.
    Artifacts {
        /// Which, and what to do.
        message: String,
    },
}

/// A step that began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The shell command.
    pub command: String,
    /// How long it ran, in milliseconds.
    pub ms: u64,
    /// Exit code; absent when a signal, the timeout or a cancellation ended it.
    pub exit: Option<i32>,
}

/// What became of the directories under `cache`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheReport {
    /// Those that an earlier build had left.
    pub restored: Vec<String>,
    /// Those that the next build will find.
    pub saved: Vec<String>,
}

/// A step begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStarted {
    /// Name of the job.
    pub job: String,
    /// Which step, from 0.
    pub step: u32,
    /// How many there are.
    pub steps: u32,
    /// The shell command, cut after 1000 bytes.
    pub command: String,
    /// Bytes in [`LOG_STREAM`] before it.
    pub offset: u64,
}

/// A step has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFinished {
    /// Name of the job.
    pub job: String,
    /// Which step, from 0.
    pub step: u32,
    /// Bytes in [`LOG_STREAM`] up to its end.
    pub offset: u64,
    /// How long it ran, in milliseconds.
    pub ms: u64,
    /// Exit code; absent when a signal, the timeout or a cancellation ended it.
    pub exit: Option<i32>,
}
