use std::fs;

use crate::harness::*;

#[test]
fn cached_directories_survive_and_others_do_not() {
    let repo = Repo::with(
        "[jobs.a]\nsteps = [\"ls -d keep/* deep/in/* other 2>/dev/null || echo nothing; mkdir -p keep deep/in other; \
         touch keep/x deep/in/y deep/z other/o\"]\ncache = [\"keep\", \"deep/in\"]\n",
        &[],
    );
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let request = labor.request(&repo.source(), &plan, 0);
    let (first, log) = labor.run(&request);
    assert_eq!(log, "nothing\n");
    assert_eq!((first.cache.restored.len(), first.cache.saved), (0, vec!["keep".into(), "deep/in".into()]));
    repo.commit("another commit, the same cache");
    let plan = labor.plan(repo.source(), None);
    let (second, log) = labor.run(&labor.request(&repo.source(), &plan, 0));
    assert_eq!(log, "deep/in/y\nkeep/x\nnothing\n");
    assert_eq!(second.cache.restored, ["keep", "deep/in"]);
}

#[test]
fn a_failed_job_keeps_its_cache_and_jobs_do_not_share() {
    let file =
        "steps = [\"ls c 2>/dev/null || true; mkdir -p c; touch c/$OVERSEER_JOB; false\"]\ncache = [\"c\"]\n";
    let repo = Repo::with(&format!("[jobs.a]\n{file}[jobs.b]\n{file}"), &[]);
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let log = |job: usize| labor.run(&labor.request(&repo.source(), &plan, job)).1;
    assert_eq!([log(0), log(1), log(0), log(1)], ["", "", "a\n", "b\n"]);
}

#[test]
fn two_builds_of_one_job_at_once_do_not_meet() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"true\"]\ncache = [\"c\"]\n", &[]);
    let gate = repo.beside("gate");
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let mut request = labor.request(&repo.source(), &plan, 0);
    request.job.env.insert("GATE".into(), gate.display().to_string());
    // Waits until the test opens the other end.
    request.job.steps =
        vec!["mkdir c; echo $$ > c/pid; echo up; read x < $GATE; test $(cat c/pid) = $$".to_owned()];
    let calls = [labor.call(), labor.call()];
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| overseer_builder::run(&request, &calls[0].context).unwrap());
        while labor.log(&calls[0]).is_empty() {
            std::thread::yield_now();
        }
        let mut other = request.clone();
        other.job.steps = vec!["test ! -e c && mkdir c && echo other > c/pid".to_owned()];
        let second = overseer_builder::run(&other, &calls[1].context).unwrap();
        fs::write(&gate, "go\n").unwrap();
        (first.join().unwrap(), second)
    });
    passed(&first);
    passed(&second);
    assert!(second.warnings[0].contains("without its cache"), "{:?}", second.warnings);
    assert!(first.warnings.is_empty() && second.cache.saved.is_empty());
}

const LIB: &str = "#[test]\nfn works() {}\n";

fn cargo_repo() -> Repo {
    let member =
        |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    let app = format!("{}[dependencies]\nbase = {{ path = \"../base\" }}\n", member("app"));
    let lock = "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\n \"base\",\n]\n\n\
        [[package]]\nname = \"base\"\nversion = \"0.1.0\"\n";
    Repo::with(
        "",
        &[
            ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"app\", \"base\"]\n"),
            ("Cargo.lock", lock),
            (".gitignore", "target\n"),
            ("base/Cargo.toml", &member("base")),
            ("base/src/lib.rs", LIB),
            ("app/Cargo.toml", &app),
            ("app/src/main.rs", "fn main() { println!(\"one\"); }\n"),
        ],
    )
}

#[test]
fn a_cargo_workspace_recompiles_only_what_changed() {
    let repo = cargo_repo();
    let labor = Labor::new();
    let build = || {
        let plan = labor.plan(repo.source(), None);
        labor.run(&labor.request(&repo.source(), &plan, 0))
    };
    let (first, log) = build();
    passed(&first);
    assert_eq!(paths(&first), ["target/release/app"]);
    assert!(log.contains("Compiling base") && log.contains("Compiling app"), "{log}");

    repo.write("app/src/main.rs", "fn main() { println!(\"two\"); }\n");
    repo.commit("app only");
    let (second, log) = build();
    passed(&second);
    assert!(!log.contains("Compiling base") && log.contains("Compiling app"), "{log}");
    assert_ne!(first.artifacts[0].size, 0);
    assert_ne!(labor.blob(&first, "target/release/app"), labor.blob(&second, "target/release/app"));

    repo.commit("nothing");
    let (third, log) = build();
    assert!(!log.contains("Compiling"), "{log}");
    assert_eq!(labor.blob(&second, "target/release/app"), labor.blob(&third, "target/release/app"));

    // What an earlier build made and this one does not is no artifact.
    fs::rename(repo.root.join("app/src/main.rs"), repo.root.join("app/src/lib.rs")).unwrap();
    repo.commit("no program any more");
    let (fourth, _) = build();
    passed(&fourth);
    assert_eq!(paths(&fourth), [""; 0]);

    repo.git(&["checkout", "-q", "HEAD~1"]);
    repo.write("base/src/lib.rs", &LIB.replace("works", "works_too"));
    let (work_tree, log) = labor.build_work_tree(&repo);
    passed(&work_tree);
    assert!(log.contains("Compiling base"), "a work tree has a cache of its own: {log}");
    let (again, log) = labor.build_work_tree(&repo);
    passed(&again);
    assert!(!log.contains("Compiling"), "{log}");
}

#[test]
fn a_cache_that_was_spoiled_is_made_anew() {
    let repo =
        Repo::with("[jobs.a]\nsteps = [\"cat a\"]\ncache = [\"c\"]\nartifacts = [\"a\"]\n", &[("a", "good")]);
    let labor = Labor::new();
    passed(&labor.build(&repo.source()));
    let work = labor.cache().join("work");
    let slot = fs::read_dir(&work).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    fs::write(slot.join("index"), "rubbish").unwrap();
    fs::write(slot.join("index.lock"), "").unwrap();
    fs::remove_dir_all(slot.join("tree/.git")).unwrap();
    fs::write(slot.join("tree/a"), "bad").unwrap();
    let report = labor.build(&repo.source());
    passed(&report);
    assert_eq!(labor.blob(&report, "a"), b"good");
    fs::remove_dir_all(labor.cache()).unwrap();
    passed(&labor.build(&repo.source()));
}

#[test]
fn a_warm_build_of_a_small_program_is_quick() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"true\"]\n", &[("a.c", "int main(void) { return 0; }\n")]);
    let labor = Labor::new();
    passed(&labor.build(&repo.source()));
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let begun = std::time::Instant::now();
            passed(&labor.build(&repo.source()));
            begun.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("plan and run of an empty job: {:?}, median {:?} of 9", times[0], times[4]);
    assert!(times[4] < std::time::Duration::from_secs(10), "{times:?}");
}

#[test]
fn a_cache_that_cannot_be_written_is_told() {
    let repo = Repo::with("[jobs.a]\nsteps = [\"true\"]\n", &[]);
    let labor = Labor::new();
    let plan = labor.plan(repo.source(), None);
    let mut request = labor.request(&repo.source(), &plan, 0);
    request.cache_dir = Some(repo.root.join(".overseer.toml"));
    let error = overseer_builder::run(&request, &labor.call().context).unwrap_err().to_string();
    assert!(error.contains("cannot make") && error.contains(".overseer.toml"), "{error}");
}
