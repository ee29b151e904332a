//! What follows the end of one try of one job: the rest of its log, its artifacts, its result.

use std::time::Instant;

use overseer::ControlPlane;
use overseer_builder::api::{Failure, FailureReason, JobReport, RunOutcome};
use overseer_builder::plan::Job;

use super::artifacts::OutDirectory;
use super::event::{JobFailure, JobResult, Outcome};
use super::follow::{LogFollower, Rest};
use super::summary::duration;

/// What is left to do when a job has answered.
pub(super) struct Settle {
    pub(super) follower: Option<LogFollower>,
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
            follower.end(Rest::OfSteps(report.steps.len())).await;
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
            follower.end(Rest::OfTheLost).await;
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
            format!("still ran when the job's timeout of {} was over", duration(*after_ms))
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
