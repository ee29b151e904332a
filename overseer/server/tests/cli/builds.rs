use std::fs;
use std::process::Command;

use crate::world::{HELLO, MAKEFILE, World, is_executable};

#[test]
fn a_c_project_is_built_and_its_program_runs() {
    let world = World::new();
    let repository = world.c_project();
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(0);
    assert!(ran.stdout.contains("build | $ make\nbuild | cc -o hello hello.c\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("passed: 1 job in "), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "colours without a terminal");
    let program = world.path("overseer-out/build/hello");
    assert!(is_executable(&program));
    assert_eq!(Command::new(&program).output().unwrap().stdout, b"hello\n");
    // The digests are those of the files.
    let sums = fs::read_to_string(world.path("overseer-out/B3SUMS")).unwrap();
    let (digest, path) = sums.trim_end().split_once("  ").unwrap();
    assert_eq!(path, "build/hello");
    assert_eq!(digest, blake3::hash(&fs::read(&program).unwrap()).to_hex().as_str());
}

const CARGO: &str = "[package]\nname = \"greet\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
const CARGO_LOCK: &str = "version = 3\n\n[[package]]\nname = \"greet\"\nversion = \"0.1.0\"\n";

#[test]
fn a_cargo_project_is_built_without_a_build_file_and_its_program_runs() {
    let world = World::new();
    let main = "fn main() { println!(\"hello from cargo\"); }\n";
    let files = [("Cargo.toml", CARGO), ("Cargo.lock", CARGO_LOCK), ("src/main.rs", main)];
    let repository = world.repository("greet", &files);
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(0);
    assert!(ran.stdout.contains("passed: 1 job in "), "{}", ran.stdout);
    let program = world.path("overseer-out/build/target/release/greet");
    assert!(is_executable(&program));
    assert_eq!(Command::new(&program).output().unwrap().stdout, b"hello from cargo\n");
}

#[test]
fn a_cargo_project_that_does_not_compile_fails_and_shows_the_compilers_last_lines() {
    let world = World::new();
    let main = "fn main() { no_such_function(); }\n";
    let files = [("Cargo.toml", CARGO), ("Cargo.lock", CARGO_LOCK), ("src/main.rs", main)];
    let repository = world.repository("greet", &files);
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(1);
    let (_, end) = ran.stdout.split_once("failed: build: step 1 of ").unwrap();
    for part in ["  | error[E0425]: cannot find function `no_such_function`", "  | error: could not compile"]
    {
        assert!(end.contains(part), "{part}: {end}");
    }
    assert!(end.contains("failed: 0 of 1 job passed"), "{end}");
    assert!(!world.path("overseer-out").exists());
}

#[test]
fn exactly_the_commit_is_built_and_a_dirty_tree_is_told() {
    let world = World::new();
    let repository = world.c_project();
    fs::write(repository.join("hello.c"), HELLO.replace("hello", "changed")).unwrap();
    let build = |args: &[&str]| {
        let mut all = vec!["build", "c", "--out", "out"];
        all.extend(args);
        let ran = world.overseer(all).exits(0);
        let said = Command::new(world.path("out/build/hello")).output().unwrap().stdout;
        (ran, String::from_utf8(said).unwrap())
    };
    let (ran, said) = build(&[]);
    assert_eq!(said, "hello\n");
    assert!(ran.stderr.contains("--worktree"), "{}", ran.stderr);
    let (ran, said) = build(&["--worktree"]);
    assert_eq!(said, "changed\n");
    assert_eq!(ran.stderr, "");
    // An older commit.
    world.commit(&repository, &[], "Change it");
    assert_eq!(build(&[]).1, "changed\n");
    assert_eq!(build(&["--rev", "HEAD~1"]).1, "hello\n");
}

#[test]
fn a_url_is_built() {
    let world = World::new();
    let repository = world.c_project();
    let url = format!("file://{}", repository.display());
    world.overseer(["build", &url, "--rev", "main"]).exits(0);
    assert!(is_executable(&world.path("overseer-out/build/hello")));
}

#[test]
fn programs_get_documents_and_nothing_else() {
    let world = World::new();
    let repository = world.c_project();
    let ran = world.overseer(["build", repository.to_str().unwrap(), "--json"]).exits(0);
    let documents = ran.documents();
    let events: Vec<_> = documents.iter().map(|d| d["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["plan", "job_started", "step", "log", "job_finished", "finished"]);
    assert_eq!(documents[0]["jobs"][0]["job"], "build");
    assert_eq!(documents[3]["text"], "cc -o hello hello.c");
    let artifact = &documents[4]["artifacts"][0];
    assert_eq!((&artifact["path"], &artifact["mode"]), (&"hello".into(), &"0755".into()));
    let bytes = fs::read(artifact["file"].as_str().unwrap()).unwrap();
    assert_eq!(artifact["digest"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(artifact["size"], bytes.len());
    assert_eq!(documents[5]["result"], "passed");
    assert!(ran.stderr.contains("build | cc -o hello hello.c"), "{}", ran.stderr);
}

#[test]
fn two_builds_of_one_repository_run_beside_each_other() {
    let world = World::new();
    let repository = world.with_build_file(
        "[jobs.build]\nsteps = [\"echo begun; while [ ! -e $HOME/go ]; do sleep 0.01; done; echo x > x\"]\nartifacts = [\"x\"]\ncache = [\"kept\"]\n",
    );
    let start = |out: &str| {
        world
            .command(env!("CARGO_BIN_EXE_overseer"))
            .env("HOME", world.path(""))
            .args(["build", repository.to_str().unwrap(), "--json", "--out", out])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut both = [start("a"), start("b")];
    for child in &mut both {
        let stdout = child.stdout.as_mut().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        assert!(lines.map_while(Result::ok).any(|line| line.contains("begun")));
    }
    // Both are in the middle of their job.
    fs::write(world.path("go"), "").unwrap();
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
    assert!(world.path("a/build/x").exists() && world.path("b/build/x").exists());
}

#[test]
fn a_copied_program_is_all_that_is_needed() {
    let world = World::new();
    world.repository("c", &[("hello.c", HELLO), ("Makefile", MAKEFILE)]);
    let copy = world.path("somewhere/overseer");
    fs::create_dir(copy.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_overseer"), &copy).unwrap();
    world.run(world.command(&copy).args(["build", "c"])).exits(0);
    assert!(is_executable(&world.path("overseer-out/build/hello")));
}

#[test]
fn a_second_build_of_a_tree_finds_it_clean() {
    let world = World::new();
    world.c_project();
    let build = || {
        let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
        world.run(command.current_dir(world.path("c")).args(["build", "."])).exits(0)
    };
    build();
    assert_eq!(build().stderr, "");
}

#[test]
fn colours_can_be_forced() {
    let world = World::new();
    let repository = world.c_project();
    let ran = world.overseer(["--color", "always", "build", repository.to_str().unwrap()]).exits(0);
    assert!(ran.stdout.contains("\u{1b}[38;5;"), "{}", ran.stdout);
}
