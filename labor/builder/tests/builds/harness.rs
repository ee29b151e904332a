//! Real repositories, and the plugin's code with a recorder in place of an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overseer_builder::BuildError;
use overseer_builder::api::*;
use overseer_builder::build_file::BuildFileError;
use overseer_plugin::testing::{Recorder, TestCall};

pub(crate) struct Repo {
    dir: tempfile::TempDir,
    pub(crate) root: PathBuf,
}

impl Repo {
    pub(crate) fn empty() -> Self {
        Self::named("repo", &[])
    }

    pub(crate) fn named(name: &str, init: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(name);
        fs::create_dir(&root).unwrap();
        let repo = Self { root: root.canonicalize().unwrap(), dir };
        repo.git(&[&["init", "-q", "-b", "main"], init].concat());
        repo
    }

    /// One commit with a build file and other files.
    pub(crate) fn with(build_file: &str, files: &[(&str, &str)]) -> Self {
        let repo = Self::empty();
        if !build_file.is_empty() {
            repo.write(".overseer.toml", build_file);
        }
        files.iter().for_each(|(name, text)| repo.write(name, text));
        repo.commit("first");
        repo
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.root, args)
    }

    pub(crate) fn source(&self) -> Source {
        Source::Path(self.root.clone())
    }

    pub(crate) fn url(&self) -> Source {
        Source::Url(format!("file://{}", self.root.display()))
    }

    /// A directory beside the repository.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }
}

pub(crate) fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A machine with its cache.
pub(crate) struct Labor {
    dir: tempfile::TempDir,
    pub(crate) recorder: Recorder,
    calls: std::sync::atomic::AtomicU64,
}

impl Labor {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path().join("host"));
        fs::create_dir(dir.path().join("host")).unwrap();
        Self { dir, recorder, calls: std::sync::atomic::AtomicU64::new(1) }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub(crate) fn call(&self) -> TestCall {
        self.recorder.call(self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    pub(crate) fn try_plan(&self, source: Source, rev: Option<&str>) -> Result<PlanReply, BuildError> {
        let cache_dir = Some(self.cache());
        let request = PlanRequest { source, rev: rev.map(str::to_owned), worktree: false, cache_dir };
        overseer_builder::plan(&request, &self.call().context)
    }

    pub(crate) fn plan(&self, source: Source, rev: Option<&str>) -> PlanReport {
        match self.try_plan(source, rev).unwrap() {
            PlanReply::Planned(report) => report,
            PlanReply::BadBuildFile(error) => panic!("{error}"),
        }
    }

    pub(crate) fn bad_build_file(&self, source: Source) -> BuildFileError {
        match self.try_plan(source, None).unwrap() {
            PlanReply::BadBuildFile(error) => error,
            PlanReply::Planned(report) => panic!("{report:?}"),
        }
    }

    pub(crate) fn plan_error(&self, source: Source, rev: Option<&str>) -> String {
        self.try_plan(source, rev).unwrap_err().to_string()
    }

    /// Plans HEAD and runs the first job.
    pub(crate) fn build(&self, source: &Source) -> JobReport {
        self.build_rev(source, None)
    }

    pub(crate) fn build_rev(&self, source: &Source, rev: Option<&str>) -> JobReport {
        let report = self.plan(source.clone(), rev);
        self.run(&self.request(source, &report, 0)).0
    }

    pub(crate) fn request(&self, source: &Source, plan: &PlanReport, job: usize) -> RunRequest {
        RunRequest {
            source: source.clone(),
            commit: plan.commit.clone(),
            worktree: false,
            job: plan.plan.jobs[job].clone(),
            needs: vec![],
            cache_dir: Some(self.cache()),
        }
    }

    /// Runs a job; gives the log too.
    pub(crate) fn run(&self, request: &RunRequest) -> (JobReport, String) {
        let call = self.call();
        let report = overseer_builder::run(request, &call.context).unwrap();
        (report, self.log(&call))
    }

    pub(crate) fn build_work_tree(&self, repo: &Repo) -> (JobReport, String) {
        let cache_dir = Some(self.cache());
        let request = PlanRequest { source: repo.source(), rev: None, worktree: true, cache_dir };
        let PlanReply::Planned(plan) = overseer_builder::plan(&request, &self.call().context).unwrap() else {
            panic!("bad build file");
        };
        self.run(&RunRequest { worktree: true, ..self.request(&repo.source(), &plan, 0) })
    }

    pub(crate) fn log(&self, call: &TestCall) -> String {
        String::from_utf8(self.recorder.log(call.context.id(), LOG_STREAM)).unwrap()
    }

    /// The contents of an artifact.
    pub(crate) fn blob(&self, report: &JobReport, path: &str) -> Vec<u8> {
        let artifact = report.artifacts.iter().find(|a| a.path == path);
        let artifact = artifact.unwrap_or_else(|| panic!("{path} is not in {report:?}"));
        fs::read(self.dir.path().join("host/blobs").join(&artifact.digest)).unwrap()
    }
}

pub(crate) fn paths(report: &JobReport) -> Vec<&str> {
    report.artifacts.iter().map(|a| a.path.as_str()).collect()
}

/// Why a job failed that no step failed.
#[track_caller]
pub(crate) fn why(report: &JobReport) -> String {
    match &report.outcome {
        RunOutcome::Failed(Failure { reason: FailureReason::Artifacts { message }, .. }) => message.clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn passed(report: &JobReport) {
    assert_eq!(report.outcome, RunOutcome::Passed, "{report:?}");
}
