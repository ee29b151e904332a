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
