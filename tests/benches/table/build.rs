//! `overseer build` of a C project of one file, from a shell and with a warm cache, beside what
//! it cannot be faster than: git makes a checkout of the commit, and make runs in it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use overseer::BoxError;

use crate::bench::Bench;
use crate::row::{Against, Row, Unit, millis};

const TIMES: usize = 20;

pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let project = bench.directory().join("project");
    let cache = bench.directory().join("cache");
    let out = bench.directory().join("out");
    repository(&project)?;

    let mut overseer = Command::new(env!("CARGO_BIN_EXE_test_overseer"));
    overseer.arg("build").arg(&project).arg("--out").arg(&out).env("OVERSEER_CACHE", &cache);
    // Packs the builder and fills the caches.
    run(&mut overseer)?;
    let mut ours = Vec::with_capacity(TIMES);
    let mut floor = Vec::with_capacity(TIMES);
    for time in 0..TIMES {
        let start = Instant::now();
        run(&mut overseer)?;
        ours.push(millis(start.elapsed()));

        let checkout = bench.directory().join(format!("checkout-{time}"));
        let start = Instant::now();
        run(git(bench.directory()).args(["clone", "-q"]).arg(&project).arg(&checkout))?;
        run(Command::new("sh").args(["-e", "-c", "make"]).current_dir(&checkout))?;
        floor.push(millis(start.elapsed()));
    }
    let floor = Against::measured("by hand", Unit::Milliseconds, floor);
    Ok(vec![Row::new("build, C project, warm", Unit::Milliseconds, ours).against(floor).goal(250.0)])
}

fn repository(project: &Path) -> Result<(), BoxError> {
    fs::create_dir(project)?;
    fs::write(
        project.join("hello.c"),
        "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n",
    )?;
    fs::write(project.join("Makefile"), "hello: hello.c\n\tcc -o hello hello.c\n")?;
    run(git(project).args(["init", "-q", "-b", "main"]))?;
    run(git(project).args(["add", "-A"]))?;
    run(git(project).args(["-c", "user.name=bench", "-c", "user.email=bench@example.com"]).args([
        "-c",
        "commit.gpgsign=false",
        "commit",
        "-q",
        "-m",
        "Say hello",
    ]))
}

fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(directory).env("GIT_CONFIG_GLOBAL", "/dev/null");
    git
}

fn run(command: &mut Command) -> Result<(), BoxError> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
