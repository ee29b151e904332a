//! Steps that put other things where the builder keeps its own. Every victim is a directory of
//! the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use overseer_builder::api::*;

use crate::checkouts::snapshot;
use crate::harness::*;

const ONE_JOB: &str = "[jobs.a]\nsteps = [\"true\"]\ncache = [\"c\", \"deep/c\"]\nartifacts = [\"a\"]\n";

/// A machine, a job that is done on it again and again, and somebody's directory.
struct Spoiled {
    repo: Repo,
    labor: Labor,
    request: RunRequest,
    victim: PathBuf,
}

impl Spoiled {
    fn new() -> Self {
        let repo = Repo::with(ONE_JOB, &[("a", "good")]);
        let victim = repo.beside("victim");
        for path in ["precious", ".git/HEAD", "needs/x", "c/x", "tree/x", "a"] {
            let path = victim.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "precious").unwrap();
        }
        let labor = Labor::new();
        let mut request = labor.request(&repo.source(), &labor.plan(repo.source(), None), 0);
        request.job.env.insert("VICTIM".into(), victim.display().to_string());
        Self { repo, labor, request, victim }
    }

    fn run(&self, step: &str) -> (JobReport, String) {
        let mut request = self.request.clone();
        request.job.steps = vec![step.to_owned()];
        self.labor.run(&request)
    }

    /// The directory that is kept for the job.
    fn slot(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.labor.cache().join("work")).unwrap().map(|e| e.unwrap().path());
        entries.find(|path| path.extension().is_none()).unwrap()
    }
}

fn is_real(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

#[test]
fn no_build_follows_a_link_that_a_step_has_put_into_its_place() {
    let places = [
        "cd ..; rm -rf tree; ln -s $VICTIM tree",
        "cd ..; rm -rf tree; ln -s nowhere tree",
        "cd ..; rm -rf tree; echo file > tree",
        "cd ..; rm -rf tmp; ln -s $VICTIM tmp",
        "cd ..; rm -f index; ln -s $VICTIM/precious index",
        "cd ..; rm -rf modules; ln -s $VICTIM modules",
        "cd ../..; slot=$(basename $(dirname $OLDPWD)); rm -rf $slot; ln -s $VICTIM $slot",
        "cd ../..; lock=$(basename $(dirname $OLDPWD)).lock; rm $lock; ln -s $VICTIM/precious $lock",
        "cd ../..; lock=$(basename $(dirname $OLDPWD)).lock; rm $lock; mkdir $lock",
        "cd ../../..; rm -rf work; ln -s $VICTIM work",
        "rm -rf .git; ln -s $VICTIM/.git .git",
        "rm -rf .git/modules; ln -s $VICTIM .git/modules",
        "mkdir .git/modules; ln -s $VICTIM .git/modules/x",
        "ln -s $VICTIM c",
        "ln -s $VICTIM deep",
        "mkdir deep; ln -s $VICTIM deep/c",
    ];
    for worktree in [false, true] {
        for step in places {
            let mut spoiled = Spoiled::new();
            spoiled.request.worktree = worktree;
            let before = snapshot(&spoiled.victim);
            spoiled.run(step);
            // Two builds: what the first one has made is good for the second.
            for _ in 0..2 {
                let step_two =
                    "test ! -e left; test ! -e c; test ! -e deep/c; git status --short; touch left";
                let (report, log) = spoiled.run(step_two);
                passed(&report);
                assert_eq!(log, "", "{step}");
                assert_eq!(spoiled.labor.blob(&report, "a"), b"good", "{step}");
                let slot = spoiled.slot();
                assert!(
                    is_real(&slot) && is_real(&slot.join("tree")) && is_real(&slot.join("tmp")),
                    "{step}"
                );
            }
            assert_eq!(before, snapshot(&spoiled.victim), "{step}");
        }
    }
}

#[test]
fn artifacts_are_taken_from_the_checkout_and_from_nowhere_else() {
    for step in [
        "cd ..; rm -rf tree; ln -s $VICTIM tree",
        "cd ..; mv tree moved; ln -s $VICTIM tree",
        "cd ..; mv tree moved; cp -r $VICTIM tree",
        "cd ..; rm -rf tree; mkdir tree; echo forged > tree/a",
        "rm -rf \"$PWD\"",
        "cd ..; mv tree moved; echo file > tree",
    ] {
        let spoiled = Spoiled::new();
        let before = snapshot(&spoiled.victim);
        let (report, _) = spoiled.run(step);
        assert!(why(&report).contains("the checkout is gone"), "{step}: {report:?}");
        assert!(report.artifacts.is_empty() && report.cache.saved.is_empty() && report.steps.len() == 1);
        assert_eq!(before, snapshot(&spoiled.victim));
        passed(&spoiled.run("true").0);
    }
}

#[test]
fn a_step_after_one_that_took_the_checkout_away_does_not_run() {
    let mut spoiled = Spoiled::new();
    spoiled.request.job.steps =
        ["cd ..; rm -rf tree; ln -s $VICTIM tree", "touch was-here"].map(str::to_owned).to_vec();
    let (report, _) = spoiled.labor.run(&spoiled.request);
    assert!(why(&report).contains("the checkout is gone"), "{report:?}");
    let RunOutcome::Failed(failure) = &report.outcome else { unreachable!() };
    assert_eq!((failure.step, report.steps.len()), (Some(1), 2));
    assert!(!spoiled.victim.join("was-here").exists());
}

#[test]
fn steps_may_do_to_their_repository_what_they_like() {
    let repo = Repo::with("", &[("Makefile", "app:\n\techo x > app; chmod +x app; rm -rf .git\n")]);
    let labor = Labor::new();
    for _ in 0..2 {
        let report = labor.build(&repo.source());
        passed(&report);
        assert_eq!(paths(&report), ["app"]);
    }
}

#[test]
fn a_mirror_that_became_a_link_is_made_anew() {
    let spoiled = Spoiled::new();
    let mirrors = spoiled.labor.cache().join("mirrors");
    let before = snapshot(&spoiled.victim);
    passed(&spoiled.labor.build(&spoiled.repo.url()));
    let mut entries = fs::read_dir(&mirrors).unwrap().map(|e| e.unwrap().path());
    let mirror = entries.find(|path| path.extension().is_some_and(|e| e == "git")).unwrap();
    for place in [&mirror, &mirrors] {
        fs::remove_dir_all(place).unwrap();
        std::os::unix::fs::symlink(&spoiled.victim, place).unwrap();
        passed(&spoiled.labor.build(&spoiled.repo.url()));
        assert!(is_real(place));
        assert_eq!(before, snapshot(&spoiled.victim));
    }
}

#[test]
fn a_submodule_leads_no_later_build_out_of_the_checkout() {
    let library = Repo::with("", &[("lib.h", "v1")]);
    let repo = Repo::with("[jobs.a]\nsteps = [\"cat sub/lib.h\"]\nartifacts = [\"sub/lib.h\"]\n", &[]);
    repo.git(&["submodule", "add", "-q", library.root.to_str().unwrap(), "sub"]);
    repo.commit("with a submodule");
    for step in [
        "git -C sub config core.worktree $VICTIM",
        "rm -rf sub/.git; echo \"gitdir: $VICTIM/.git\" > sub/.git",
        "rm -rf sub; ln -s $VICTIM sub",
        "rm -rf sub; mv .git/modules/sub moved; ln -s $VICTIM/.git .git/modules/sub",
    ] {
        let victim = Repo::with("", &[("lib.h", "precious")]);
        victim.write("untracked", "precious");
        victim.write("lib.h", "changed");
        let before = snapshot(&victim.root);
        let labor = Labor::new();
        let mut request = labor.request(&repo.source(), &labor.plan(repo.source(), None), 0);
        request.job.env.insert("VICTIM".into(), victim.root.display().to_string());
        let good = request.clone();
        request.job.steps = vec![step.to_owned()];
        labor.run(&request);
        for _ in 0..2 {
            let (report, log) = labor.run(&good);
            passed(&report);
            assert_eq!(log, "v1", "{step}");
        }
        assert_eq!(before, snapshot(&victim.root), "{step}");
    }
}

#[test]
fn a_conflict_with_needs_is_one_only_for_a_job_that_has_needs() {
    let file = "[jobs.a]\nsteps = [\"echo x > app\"]\nartifacts = [\"app\"]\n[jobs.b]\nneeds = [\"a\"]\nsteps = [\"cat needs/a/app\"]\n";
    for kind in ["a link", "a file", "a directory"] {
        let repo = Repo::with(file, &[]);
        let needs = repo.root.join("needs");
        match kind {
            "a link" => std::os::unix::fs::symlink("nowhere", needs).unwrap(),
            "a file" => repo.write("needs", ""),
            _ => repo.write("needs/x", ""),
        }
        repo.commit("with needs of its own");
        let labor = Labor::new();
        let plan = labor.plan(repo.source(), None);
        let (report, _) = labor.run(&labor.request(&repo.source(), &plan, 0));
        passed(&report);
        let needs = vec![NeedArtifacts { job: "a".into(), files: report.artifacts }];
        let request = RunRequest { needs, ..labor.request(&repo.source(), &plan, 1) };
        let message = why(&labor.run(&request).0);
        assert!(
            message.contains(kind) && message.contains("\"needs\"") && message.contains("rename"),
            "{message}"
        );
    }
}
