use std::fs;

use crate::world::World;

#[test]
fn a_mistake_in_the_build_file_is_shown_with_its_line_and_key() {
    let world = World::new();
    let text = "[jobs.build]\nsteps = [\"make\"]\nartefacts = [\"x\"]\n";
    let repository = world.with_build_file(text);
    let ran = world.overseer(["build", repository.to_str().unwrap()]).exits(2);
    for part in [".overseer.toml:3:1", "artefacts", "artifacts"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = world.overseer(["build", repository.to_str().unwrap(), "--json"]).exits(2);
    let documents = ran.documents();
    let error = documents.last().unwrap();
    assert_eq!(error["event"], "error");
    assert_eq!((error["code"].as_str(), error["line"].as_u64()), (Some("build.file"), Some(3)));
    assert!(error["key"].as_str().unwrap().contains("artefacts"));
}

#[test]
fn what_cannot_be_built_is_refused_with_2_and_leaves_nothing() {
    let world = World::new();
    let repository = world.c_project();
    fs::create_dir(world.path("empty")).unwrap();
    fs::write(world.path("file"), "").unwrap();
    let repository = repository.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["nothing-here"], "nothing at \"nothing-here\""),
        (&["file"], "is a file"),
        (&["empty"], "git init"),
        (&[repository, "--rev", "no-such"], "no-such"),
        (&[repository, "--rev", "--upload-pack=x"], "--upload-pack"),
        (&["https://host/x", "--worktree"], "no work tree"),
        (&[repository, "--out", "file"], "not a directory"),
        (&[repository, "--nodes", "0"], "1..=256"),
    ];
    for (args, part) in cases {
        let ran = world.overseer(["build"].iter().chain(args)).exits(2);
        assert!(ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    assert!(!world.path("overseer-out").exists());
}

#[test]
fn every_command_has_help_with_an_example() {
    let world = World::new();
    let commands = [
        "",
        "build",
        "release",
        "release pack",
        "release inspect",
        "release verify",
        "release keygen",
        "labor",
        "doctor",
    ];
    for command in commands {
        let args = command.split(' ').filter(|word| !word.is_empty()).chain(["--help"]);
        let ran = world.overseer(args).exits(0);
        assert!(ran.stdout.contains("Example"), "{command}: {}", ran.stdout);
    }
    assert!(world.overseer(["--version"]).exits(0).stdout.starts_with("overseer 0."));
}

#[test]
fn a_mistake_in_a_manifest_is_shown_with_its_line_and_key() {
    let world = World::new();
    fs::create_dir(world.path("hello")).unwrap();
    let manifest = "name = \"hello\"\nversion = \"1.2\"\nkind = \"program\"\nentry = \"run.sh\"\n";
    fs::write(world.path("hello/release.toml"), manifest).unwrap();
    let ran = world.overseer(["release", "pack", "hello"]).exits(2);
    for part in ["release.toml:2:11", "version", "semantic version", "1.2"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = world.overseer(["release", "pack", "hello", "--json"]).exits(2);
    let error = ran.document();
    assert_eq!((&error["code"], &error["key"]), (&"release.manifest".into(), &"version".into()));
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(2), Some(11)));
    // One that is not there has no text to show.
    fs::create_dir(world.path("empty")).unwrap();
    let ran = world.overseer(["release", "pack", "empty"]).exits(2);
    assert!(ran.stderr.contains("empty/release.toml"), "{}", ran.stderr);
}

#[test]
fn arguments_that_make_no_sense_are_a_document_too() {
    let world = World::new();
    for args in [&["build", "--nodes", "many", "--json"][..], &["doctor", "--json", "x"], &["fly", "--json"]]
    {
        let ran = world.overseer(args).exits(2);
        let error = ran.document();
        assert_eq!((&error["event"], &error["code"]), (&"error".into(), &"usage".into()), "{args:?}");
        assert!(ran.stderr.contains("error:"), "{}", ran.stderr);
    }
    let ran = world.overseer(["build", "--nodes", "many"]).exits(2);
    assert_eq!(ran.stdout, "");
}

#[test]
fn an_output_that_cannot_be_written_is_said_and_is_no_success() {
    let world = World::new();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["doctor"][..], &["doctor", "--json"]] {
        let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
        let ran = world.run(command.args(args).stdout(full())).exits(3);
        assert!(ran.stderr.contains("standard output could not be written"), "{}", ran.stderr);
    }
}

#[test]
fn a_path_in_an_error_is_in_one_piece() {
    let world = World::new();
    let path = format!("some-where/{}.release", "far-away/".repeat(30));
    let ran = world.overseer(["release", "inspect", &path]).exits(2);
    assert!(ran.stderr.contains(&path), "{}", ran.stderr);
}

#[test]
fn places_that_take_no_artifacts_are_refused_before_anything_is_built() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.a]\nsteps = [\"touch $HOME/ran\"]\n");
    fs::write(world.path("file"), "").unwrap();
    for out in ["file/x", "/proc/x"] {
        let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
        command.env("HOME", world.path("")).arg("build").arg(&repository).args(["--out", out]);
        let ran = world.run(&mut command).exits(2);
        assert!(ran.stderr.contains("--out"), "{}", ran.stderr);
    }
    assert!(!world.path("ran").exists());
}
