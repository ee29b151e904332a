//! `overseer build`: a commit becomes artifacts on labors of this machine that live as long as
//! the build.

mod artifacts;
mod builder_release;
mod display;
mod error;
mod event;
mod follow;
mod interrupt;
mod job;
mod json;
mod lines;
mod progress;
mod request;
mod run;
mod site;
mod source;
mod summary;

use std::sync::Arc;
use std::time::Instant;

use overseer::{CallError, CallOptions, Labor};
use overseer_builder::api::{PlanReply, PlanReport, PlanRequest};

use self::artifacts::OutDirectory;
pub(crate) use self::builder_release::serve as serve_builder;
use self::display::Display;
use self::event::{Event, JobResult, Listener, Outcome, Planned, PlannedJob, Totals};
use self::interrupt::Interrupt;
use self::json::Json;
pub(crate) use self::request::BuildArgs;
use self::request::Request;
use self::run::Run;
use self::site::Site;
pub(crate) use self::site::cache_directory;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Target;

/// How often a plan is asked for when its labor is lost.
const PLAN_TRIES: u32 = 3;

/// Builds, and says how the program ends.
pub(crate) fn run(args: BuildArgs) -> Result<Exit, Failure> {
    let request = Request::new(args)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| {
            Failure::fault(
                "build.start",
                format!("no runtime: {e}; raise the limits of processes and open files"),
            )
        })?;
    let result = runtime.block_on(build(&request));
    // Whatever still blocks is of no use to anybody.
    runtime.shutdown_background();
    result
}

async fn build(request: &Request) -> Result<Exit, Failure> {
    let began = Instant::now();
    let interrupt = Interrupt::listen()
        .map_err(|e| Failure::fault("build.start", format!("signals cannot be handled: {e}")))?;
    let target = if request.json { Target::Stderr } else { Target::Stdout };
    let display = Display::new(target);
    let listener: Arc<dyn Listener> =
        if request.json { Arc::new(Both(display, Json)) } else { Arc::new(display) };
    let result = on_site(request, &listener, &interrupt, began).await;
    listener.close();
    result
}

/// Starts the machinery, builds on it, and ends it whatever came of that.
async fn on_site(
    request: &Request,
    listener: &Arc<dyn Listener>,
    interrupt: &Interrupt,
    began: Instant,
) -> Result<Exit, Failure> {
    let site = Site::start(request.nodes, &request.cache).await?;
    tracing::debug!(ms = began.elapsed().as_millis(), "the Overseer is up");
    let result = plan_and_run(&site, request, listener, interrupt, began).await;
    tracing::debug!(ms = began.elapsed().as_millis(), "all is built");
    site.stop().await;
    tracing::debug!(ms = began.elapsed().as_millis(), "all is stopped");
    result
}

async fn plan_and_run(
    site: &Site,
    request: &Request,
    listener: &Arc<dyn Listener>,
    interrupt: &Interrupt,
    began: Instant,
) -> Result<Exit, Failure> {
    let planned = tokio::select! {
        planned = plan(site, request) => planned,
        exit = interrupt.wait() => {
            listener.on(&Event::Finished(totals(exit, began, request, &[])));
            return Ok(exit);
        }
    };
    let (labor, report) = planned?;
    let nodes = request.nodes.min(report.plan.jobs.len());
    listener.on(&Event::Plan(describe(&report, request, nodes)));
    for message in warnings(&report, request) {
        listener.on(&Event::Warning { job: None, message: &message });
    }
    let run = Run { site, request, report: &report, listener: Arc::clone(listener), interrupt, nodes };
    let results = run.jobs(labor).await?;
    let saved = OutDirectory(request.out.clone()).complete(&results);
    if let Err(error) = &saved {
        listener.on(&Event::Warning { job: None, message: &error.to_string() });
    }
    let ended = if saved.is_ok() { exit_of(&results) } else { Exit::Fault };
    let exit = interrupt.seen().unwrap_or(ended);
    listener.on(&Event::Finished(totals(exit, began, request, &results)));
    Ok(exit)
}

fn totals<'a>(exit: Exit, began: Instant, request: &Request, results: &'a [JobResult]) -> Totals<'a> {
    Totals {
        result: match exit {
            Exit::Passed => "passed",
            Exit::Interrupted => "interrupted",
            Exit::Terminated | Exit::HungUp => "terminated",
            Exit::Fault => "fault",
            Exit::Failed | Exit::BadInput => "failed",
        },
        exit: exit.code(),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        jobs: results.len(),
        passed: results.iter().filter(|r| r.result == Outcome::Passed).count(),
        artifacts: results.iter().map(|r| r.artifacts.len()).sum(),
        out: request.out_name.clone(),
        results,
    }
}

/// Starts the first labor and has the commit planned on it.
async fn plan(site: &Site, request: &Request) -> Result<(Labor, PlanReport), Failure> {
    let labor = site.fleet.start_child().await.map_err(|e| Failure::fault("build.start", e.to_string()))?;
    let ask = PlanRequest {
        source: request.source.clone(),
        rev: request.rev.clone(),
        worktree: request.worktree,
        cache_dir: Some(request.cache.clone()),
    };
    let mut tries = 0;
    loop {
        site::usable(&site.plane, &labor).await?;
        // Fetching a large repository takes as long as it takes.
        let reply: Result<PlanReply, CallError> =
            labor.call_with("plan", &ask, CallOptions::default().run(None)).await;
        tries += 1;
        match reply {
            Ok(PlanReply::Planned(report)) => return Ok((labor, report)),
            Ok(PlanReply::BadBuildFile(error)) => return Err(error::bad_build_file(error)),
            Err(error) if error::is_loss(&error) && tries < PLAN_TRIES => {
                tracing::warn!("planning again: {}", error::loss_cause(&error));
            }
            Err(error) => return Err(error::no_plan(&error)),
        }
    }
}

fn describe<'a>(report: &'a PlanReport, request: &Request, nodes: usize) -> Planned<'a> {
    let jobs = &report.plan.jobs;
    let name = |id| report.plan.job(id).map(|job| job.name.as_str());
    Planned {
        commit: &report.commit,
        short: &report.short,
        tree: &report.tree,
        subject: &report.subject,
        dirty: report.dirty,
        worktree: request.worktree,
        from: &report.from,
        jobs: jobs
            .iter()
            .map(|job| PlannedJob {
                job: &job.name,
                needs: job.needs.iter().filter_map(|id| name(*id)).collect(),
                steps: job.steps.len(),
            })
            .collect(),
        nodes,
    }
}

fn warnings(report: &PlanReport, request: &Request) -> Vec<String> {
    let mut all = report.warnings.clone();
    if report.dirty && !request.worktree && request.rev.is_none() {
        all.push(format!(
            "the work tree has changes that are not in {}; commit them, or build them with --worktree",
            report.short
        ));
    }
    all
}

/// Faults of the machinery weigh more than failures of jobs.
fn exit_of(results: &[JobResult]) -> Exit {
    let any = |outcomes: &[Outcome]| results.iter().any(|r| outcomes.contains(&r.result));
    if any(&[Outcome::Fault, Outcome::Lost]) {
        Exit::Fault
    } else if results.iter().all(|r| r.result == Outcome::Passed) {
        Exit::Passed
    } else {
        Exit::Failed
    }
}

/// Text for people and documents for programs.
struct Both(Display, Json);

impl Listener for Both {
    fn on(&self, event: &Event<'_>) {
        self.1.on(event);
        self.0.on(event);
    }

    fn close(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_result_is_the_exit_code() {
        let exit = |outcomes: &[Outcome]| {
            let results: Vec<_> = outcomes.iter().map(|o| JobResult::without_report("x", *o, None)).collect();
            exit_of(&results)
        };
        assert_eq!(exit(&[Outcome::Passed, Outcome::Passed]), Exit::Passed);
        assert_eq!(exit(&[Outcome::Passed, Outcome::Failed, Outcome::Skipped]), Exit::Failed);
        assert_eq!(exit(&[Outcome::Failed, Outcome::Fault]), Exit::Fault);
        assert_eq!(exit(&[Outcome::Passed, Outcome::Lost]), Exit::Fault);
    }
}
