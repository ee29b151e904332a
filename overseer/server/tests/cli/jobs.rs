use std::fs;
use std::time::Instant;

use crate::world::World;

#[test]
fn jobs_get_what_their_needs_made_and_a_matrix_runs_side_by_side() {
    let world = World::new();
    let repository = world.with_build_file(
        r#"
        [jobs.pack]
        needs = ["build"]
        steps = ["cat needs/*/part > all"]
        artifacts = ["all"]
        [jobs.build]
        matrix = { part = ["a", "b"] }
        steps = [
            # Each waits for the other: alone, neither would end.
            "touch $HOME/$MATRIX_PART; while [ ! -e $HOME/a ] || [ ! -e $HOME/b ]; do sleep 0.01; done",
            "printf $MATRIX_PART > part",
        ]
        artifacts = ["part"]
        timeout = "20s"
        "#,
    );
    let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
    command.env("HOME", world.path("")).arg("build").arg(repository).args(["--nodes", "2"]);
    let ran = world.run(&mut command).exits(0);
    assert_eq!(fs::read_to_string(world.path("overseer-out/pack/all")).unwrap(), "ab");
    assert!(world.path("overseer-out/build (part=a)/part").exists());
    assert!(ran.stdout.contains("passed: 3 jobs in "), "{}", ran.stdout);
}

#[test]
fn a_failing_build_shows_the_last_lines_of_its_step_and_skips_what_needs_it() {
    let world = World::new();
    let repository = world.with_build_file(
        r#"
        [jobs.test]
        steps = ["echo fine", "echo line one; echo the reason >&2; exit 7"]
        [jobs.deploy]
        needs = ["test"]
        steps = ["touch $HOME/deployed"]
        [jobs.lint]
        steps = ["true"]
        "#,
    );
    let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
    command.env("HOME", world.path("")).arg("build").arg(repository);
    let ran = world.run(&mut command).exits(1);
    let end = ran.stdout.split("\n\n").skip(1).collect::<Vec<_>>().join("\n\n");
    assert!(end.contains("deploy  skipped"), "{end}");
    assert!(end.contains("failed: test: step 2 of 2 exited with code 7\n"), "{end}");
    assert!(end.contains("  | line one\n  | the reason\n"), "{end}");
    assert!(end.contains("failed: 1 of 3 jobs passed"), "{end}");
    assert!(!world.path("deployed").exists());
}

#[test]
fn an_artifact_that_is_not_there_fails_the_job_and_is_named() {
    let world = World::new();
    let repository =
        world.with_build_file("[jobs.build]\nsteps = [\"echo done\"]\nartifacts = [\"out/*.bin\"]\n");
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(1);
    assert!(ran.stdout.contains("no file matches the artifact \"out/*.bin\""), "{}", ran.stdout);
    assert!(!world.path("overseer-out").exists());
}

#[test]
fn a_job_that_says_nothing_is_not_waited_for() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.quiet]\nsteps = [\"true\"]\n");
    let begun = Instant::now();
    world.overseer(["build", repository.to_str().unwrap()]).exits(0);
    assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
}

#[test]
fn a_log_is_shown_to_its_last_byte() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.loud]\nsteps = [\"seq 1 20000; printf unfinished\"]\n");
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(0);
    let numbers = ran.stdout.lines().filter_map(|l| l.strip_prefix("loud | ")).skip(1);
    let wanted = (1..=20_000).map(|n| n.to_string()).chain(["unfinished".to_owned()]);
    assert!(numbers.eq(wanted));
}

/// How long a reader of the output may be away: longer than anything that is waited for in vain.
const AWAY: std::time::Duration = std::time::Duration::from_secs(6);

#[test]
fn a_reader_who_is_away_for_a_while_gets_every_line_and_each_step_in_its_place() {
    const LINES: usize = 200_000;
    let world = World::new();
    let done = world.path("done");
    let repository = world.with_build_file(&format!(
        "[jobs.a]\nsteps = [\"seq {LINES}\", \"echo LAST\", \"printf end; touch {}\"]\n",
        done.display()
    ));
    let mut build = world.start_build(&repository, &[]);
    build.ignore_text();
    build.wait_for("job_started");
    while !done.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(AWAY);
    let mut seen = Vec::new();
    loop {
        let document = build.next();
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        match document["event"].as_str().unwrap() {
            "log" => seen.push(text("text")),
            "step" => seen.push(format!("$ {}", document["step"])),
            "job_finished" => break,
            _ => {}
        }
    }
    let mut expected = vec!["$ 1".to_owned()];
    expected.extend((1..=LINES).map(|n| n.to_string()));
    expected.extend(["$ 2", "LAST", "$ 3", "end"].map(str::to_owned));
    assert_eq!(seen.len(), expected.len());
    assert!(seen == expected, "lines or steps are not in order");
    assert_eq!(build.wait_for("finished")["exit"], 0);
    assert_eq!(build.end(), 0);
}

#[test]
fn steps_without_output_are_shown_and_hold_up_nothing() {
    let world = World::new();
    let repository =
        world.with_build_file("[jobs.a]\nsteps = [\"true\", \"printf x\", \"true\", \"true\"]\n");
    let mut build = world.start_build(&repository, &[]);
    let mut seen = Vec::new();
    loop {
        let document = build.next();
        match document["event"].as_str().unwrap() {
            "log" => seen.push(document["text"].to_string()),
            "step" => seen.push(document["step"].to_string()),
            "job_finished" => break,
            _ => {}
        }
    }
    assert_eq!(seen, ["1", "2", "\"x\"", "3", "4"]);
    assert_eq!(build.end(), 0);
}
