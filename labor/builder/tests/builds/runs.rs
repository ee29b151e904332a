use std::fs;

use overseer_builder::BuildError;
use overseer_builder::api::*;

use crate::harness::*;

const HELLO: [(&str, &str); 2] = [
    ("hello.c", "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n"),
    ("Makefile", "hello: hello.c\n\tcc -o $@ $<\n"),
];

#[test]
fn a_c_program_is_built() {
    let repo = Repo::with("[jobs.build]\nsteps = [\"make\"]\nartifacts = [\"hello\"]\n", &HELLO);
    let labor = Labor::new();
    let report = labor.build(&repo.source());
    passed(&report);
    assert_eq!(report.artifacts[0].mode, 0o755);
    let hello = repo.beside("hello");
    fs::write(&hello, labor.blob(&report, "hello")).unwrap();
    fs::set_permissions(&hello, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(std::process::Command::new(&hello).output().unwrap().stdout, b"hello\n");
}

#[test]
fn a_c_program_without_a_build_file_gives_its_executable_and_no_script_of_the_repository() {
    let repo = Repo::with("", &HELLO);
    repo.write("configure", "#!/bin/sh\n");
    fs::set_permissions(repo.root.join("configure"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    repo.commit("with a script");
    let report = Labor::new().build(&repo.source());
    passed(&report);
    assert_eq!(paths(&report), ["hello"]);
}

#[test]
fn a_compile_error_is_a_report_with_the_compilers_words() {
    let repo = Repo::with("", &HELLO);
    repo.write("hello.c", "int main(void) { return missing; }\n");
    repo.commit("broken");
    let report = Labor::new().build(&repo.source());
    let RunOutcome::Failed(failure) = &report.outcome else { panic!("{report:?}") };
    assert_eq!((failure.step, &failure.reason), (Some(0), &FailureReason::Exit { code: 2 }));
    assert!(failure.tail.iter().any(|line| line.contains("missing")), "{:?}", failure.tail);
    assert_eq!(report.steps[0].exit, Some(2));
    assert!(report.artifacts.is_empty());
}

#[test]
fn an_artifact_that_is_not_there_fails_the_job() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"true\"]\nartifacts = [\"app\"]\n", &[]);
    let report = Labor::new().build(&repo.source());
    let RunOutcome::Failed(failure) = &report.outcome else { panic!("{report:?}") };
    let FailureReason::Artifacts { message } = &failure.reason else { panic!("{failure:?}") };
    assert!(failure.step.is_none() && message.contains("\"app\""), "{message}");
}

#[test]
fn needed_artifacts_lie_where_the_next_job_looks() {
    let repo = Repo::with(
        r#"
        [jobs.build]
        steps = ["echo $MATRIX_OS > app; chmod +x app"]
        artifacts = ["app"]
        matrix = { os = ["linux", "bsd"] }
        [jobs.test]
        needs = ["build"]
        steps = ["cat 'needs/build (os=linux)/app' needs/build*bsd*/app", "test -x needs/build*bsd*/app"]
        "#,
        &[],
    );
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let needs = [0, 1].map(|job| {
        let (report, _) = labor.run(&labor.request(&repo.source(), &plan, job));
        passed(&report);
        NeedArtifacts { job: plan.plan.jobs[job].name.clone(), files: report.artifacts }
    });
    let request = RunRequest { needs: needs.to_vec(), ..labor.request(&repo.source(), &plan, 2) };
    for _ in 0..2 {
        let (report, log) = labor.run(&request);
        passed(&report);
        assert_eq!(log, "linux\nbsd\n");
    }
}

#[test]
fn steps_have_a_clean_environment() {
    let repo = Repo::with(
        "[jobs.a]\nsteps = [\"env | cut -d= -f1 | sort\", \"echo $OVERSEER_COMMIT $OVERSEER_JOB $CI $X $MATRIX_M\", \
         \"touch $TMPDIR/x; pwd\"]\nenv = { X = \"a b\" }\nmatrix = { m = [\"1\"] }\n",
        &[],
    );
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let (report, log) = labor.run(&labor.request(&repo.source(), &plan, 0));
    passed(&report);
    assert!(log.contains(&format!("{} a (m=1) true a b 1\n", plan.commit)), "{log}");
    assert!(!log.contains("CARGO_MANIFEST_DIR"), "{log}");
}

#[test]
fn the_events_say_where_each_step_is_in_the_log() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"printf 12345\", \"exit 4\"]\n", &[]);
    let labor = Labor::new();
    labor.build(&repo.source());
    let of = |name: &str| -> Vec<serde_json::Value> {
        let prefix = format!("event {name} ");
        let records = labor.recorder.records();
        records.iter().filter_map(|r| serde_json::from_str(r.strip_prefix(&prefix)?).ok()).collect()
    };
    let started: Vec<StepStarted> =
        of(STEP_STARTED).into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
    let finished: Vec<StepFinished> =
        of(STEP_FINISHED).into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
    assert_eq!(
        started.iter().map(|s| (s.step, s.steps, s.offset)).collect::<Vec<_>>(),
        [(0, 2, 0), (1, 2, 5)]
    );
    assert_eq!(started[1].command, "exit 4");
    assert_eq!(
        finished.iter().map(|s| (s.step, s.offset, s.exit)).collect::<Vec<_>>(),
        [(0, 5, Some(0)), (1, 5, Some(4))]
    );
}

#[test]
fn a_cancelled_job_is_reported_as_such() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"echo up; sleep 1000\", \"true\"]\n", &[]);
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let request = labor.request(&repo.source(), &plan, 0);
    let call = labor.call();
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| overseer_builder::run(&request, &call.context).unwrap());
        while labor.log(&call).is_empty() {
            std::thread::yield_now();
        }
        call.cancel();
        running.join().unwrap()
    });
    assert_eq!(report.outcome, RunOutcome::Cancelled);
    assert_eq!(report.steps.len(), 1);
    let cancelled = overseer_builder::run(&request, &call.context);
    assert!(matches!(cancelled, Err(BuildError::Cancelled)), "{cancelled:?}");
}
