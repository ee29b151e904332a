use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overseer_plugin::CallContext;

use crate::BuildError;
use crate::api::{
    CacheReport, Failure, FailureReason, JobReport, LOG_STREAM, RunOutcome, RunRequest, STEP_FINISHED,
    STEP_STARTED, Source, StepFinished, StepReport, StepStarted,
};
use crate::build_file::floor_char;
use crate::build_file::rules::{self, Broken};
use crate::cancel::Cancel;
use crate::checkout::{Checkout, tracked};
use crate::group::Group;
use crate::place::{Place, is_directory_below};
use crate::plan::Job;
use crate::planning::var;
use crate::repository::{Repository, is_commit_id};
use crate::slot::Slot;
use crate::steps::{self, Listener, Steps};
use crate::{artifacts, cache_dir, environment, mirror, worktree};

/// Longest command in an event, in bytes.
const EVENT_COMMAND: usize = 1000;

/// Runs one job: checkout, needs, steps, artifacts.
///
/// # Errors
/// Faults of the request or the machinery. A job that fails is a report.
pub fn run(request: &RunRequest, context: &CallContext) -> Result<JobReport, BuildError> {
    let cancel = Cancel::of(context)?;
    let job = &request.job;
    check(request)?;
    let cache = cache_dir::choose(request.cache_dir.as_deref(), var, context.directory());
    let mut warnings = Vec::new();

    let repository = match &request.source {
        Source::Path(path) => Repository::at(path, &cancel)?,
        Source::Url(url) => mirror::fetch(url, &request.commit, &cache, &cancel)?.repository,
    };
    let slot = slot(request, &repository, &cache, context, &mut warnings)?;
    let is_local = matches!(request.source, Source::Path(_));
    let checkout = Checkout { repository: &repository, commit: &request.commit, cache: &job.cache, is_local };
    let made = if request.worktree {
        take_work_tree(&checkout, &slot, &mut warnings, &cancel)
    } else {
        checkout.make(&slot, &cancel)
    };
    let place = match made {
        Ok(place) => place,
        Err(error @ BuildError::Submodules(_)) => return Ok(not_begun(error.to_string(), warnings)),
        Err(error) => return Err(error),
    };
    let tree = place.path();
    let restored = there(tree, &job.cache);
    artifacts::remove_stale(tree, &job.artifacts, &job.cache)?;
    if let Err(message) = artifacts::lay_needs(tree, &request.needs, context, &cancel)? {
        return Ok(not_begun(message, warnings));
    }
    // Asked before the steps, which may do to their `.git` what they like.
    let known = if job.artifacts.iter().any(|a| a.made_executables) {
        tracked(&checkout, &slot, &place, &cancel)?
    } else {
        BTreeSet::new()
    };

    let tmp = slot.fresh_tmp()?;
    let env = environment::of_job(var, &job.name, &request.commit, &job.env, &tmp);
    let group = group(context)?;
    let mut listener = Reporter { context, job, offset: 0 };
    let timeout = Duration::from_millis(job.timeout_ms);
    let to_run = Steps { commands: &job.steps, place: &place, env: &env, timeout };
    let ran = steps::run(&to_run, &group, &cancel, &mut listener)?;

    let gone = place.check();
    let saved = if slot.is_kept() && gone.is_ok() { there(tree, &job.cache) } else { vec![] };
    let mut report = JobReport {
        outcome: ran.outcome,
        steps: ran.steps,
        artifacts: vec![],
        cache: CacheReport { restored, saved },
        warnings,
    };
    if report.outcome == RunOutcome::Passed {
        let chosen = match gone {
            Ok(()) => artifacts::choose(tree, &job.artifacts, &known)?,
            Err(message) => Err(message),
        };
        match chosen {
            Ok(choice) => {
                report.warnings.extend(choice.warnings);
                report.artifacts = artifacts::upload(choice.files, context, &cancel)?;
            }
            Err(message) => report.outcome = failed(message),
        }
    }
    Ok(report)
}

/// The report of a job whose commit does not let it begin.
fn not_begun(message: String, warnings: Vec<String>) -> JobReport {
    let cache = CacheReport::default();
    JobReport { outcome: failed(message), steps: vec![], artifacts: vec![], cache, warnings }
}

fn failed(message: String) -> RunOutcome {
    RunOutcome::Failed(Failure { step: None, reason: FailureReason::Artifacts { message }, tail: vec![] })
}

/// The place where the job runs: the one kept for it, or a passing one while another build of
/// the same job uses that.
fn slot(
    request: &RunRequest,
    repository: &Repository,
    cache: &Path,
    context: &CallContext,
    warnings: &mut Vec<String>,
) -> Result<Slot, BuildError> {
    let job = &request.job;
    // The work trees of one repository share their slots: what is cached is of use to all.
    let source = match &request.source {
        Source::Path(_) => repository.common_dir.to_string_lossy().into_owned(),
        Source::Url(_) => repository.name.clone(),
    };
    let kind = if request.worktree { "worktree" } else { "commit" };
    let key = mirror::file_name(&repository.name, &[&source, &job.name, kind]);
    if let Some(slot) = Slot::kept(cache, &key)? {
        return Ok(slot);
    }
    if !job.cache.is_empty() {
        warnings.push(format!(
            "another build of {} runs on this machine, so this one runs without its cache",
            job.name
        ));
    }
    Slot::passing(context.directory().join(format!("job-{}", context.id())))
}

fn take_work_tree(
    checkout: &Checkout<'_>,
    slot: &Slot,
    warnings: &mut Vec<String>,
    cancel: &Cancel,
) -> Result<Place, BuildError> {
    let Some(root) = &checkout.repository.work_tree else {
        return Err(BuildError::BadRequest(format!(
            "{} is a bare repository and has no work tree; leave --worktree out",
            checkout.repository.name
        )));
    };
    let tree = checkout.place(slot)?;
    warnings.extend(worktree::copy(root, tree.path(), checkout.cache, cancel)?);
    // The steps' git shows what differs from the commit, as the user's does.
    checkout.make_git_dir(slot, &tree, cancel)?;
    crate::slot::remove_all(&slot.index().with_extension("lock"))?;
    checkout.git("read-tree", slot, &tree).args(["--reset", checkout.commit]).check(cancel)?;
    checkout.give_index(slot, &tree)?;
    Ok(tree)
}

/// The processes of this job, which a cancellation kills even while the log takes no more.
fn group(context: &CallContext) -> Result<Arc<Group>, BuildError> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let mark = format!("{}-{}-{now}", std::process::id(), context.id());
    let group = Group::start(mark).map_err(BuildError::io("cannot start", "/bin/sh".as_ref()))?;
    let group = Arc::new(group);
    let to_kill = Arc::downgrade(&group);
    context.on_cancel(move || {
        if let Some(group) = to_kill.upgrade() {
            group.kill();
        }
    });
    Ok(group)
}

fn there(tree: &Path, paths: &[String]) -> Vec<String> {
    paths.iter().filter(|path| is_directory_below(tree, path)).cloned().collect()
}

/// A request need not come from a plan of ours.
fn check(request: &RunRequest) -> Result<(), BuildError> {
    let job = &request.job;
    if !is_commit_id(&request.commit) {
        return Err(BuildError::BadRequest(format!(
            "{:?} is not the whole id of a commit; take it from `plan`",
            request.commit
        )));
    }
    if request.worktree && matches!(request.source, Source::Url(_)) {
        return Err(BuildError::BadRequest("a URL has no work tree; give a path".into()));
    }
    let all = || -> Result<(), Broken> {
        job.steps.iter().try_for_each(|step| rules::step(step))?;
        job.cache.iter().try_for_each(|path| rules::cache_path(path))?;
        job.artifacts.iter().try_for_each(|a| rules::artifact_pattern(&a.glob).map(drop))?;
        for (name, value) in &job.env {
            if !name.starts_with("MATRIX_") {
                rules::env_name(name)?;
            }
            rules::env_value(value)?;
        }
        Ok(())
    };
    all().map_err(|broken| {
        BuildError::BadRequest(format!("job {}: {}; {}", job.name, broken.message, broken.help))
    })?;
    if job.name.is_empty() || job.name.contains(['/', '\0']) || job.timeout_ms == 0 {
        return Err(BuildError::BadRequest("the job has no name or no timeout; take it from `plan`".into()));
    }
    Ok(())
}

struct Reporter<'a> {
    context: &'a CallContext,
    job: &'a Job,
    offset: u64,
}

impl Listener for Reporter<'_> {
    fn output(&mut self, bytes: &[u8]) {
        self.context.log(LOG_STREAM, bytes);
        self.offset += bytes.len() as u64;
    }

    fn step_started(&mut self, step: u32, command: &str) {
        let steps = u32::try_from(self.job.steps.len()).unwrap_or(u32::MAX);
        self.context.progress(step.into(), steps.into(), "steps");
        let end = floor_char(command, EVENT_COMMAND);
        let event = StepStarted {
            job: self.job.name.clone(),
            step,
            steps,
            command: command[..end].to_owned(),
            offset: self.offset,
        };
        self.context.event(STEP_STARTED, &event);
    }

    fn step_finished(&mut self, step: u32, report: &StepReport) {
        let event = StepFinished {
            job: self.job.name.clone(),
            step,
            offset: self.offset,
            ms: report.ms,
            exit: report.exit,
        };
        self.context.event(STEP_FINISHED, &event);
    }
}
