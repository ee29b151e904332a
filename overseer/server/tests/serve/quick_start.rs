//! The first lines of the README, as somebody types them who has nothing yet.

use std::fs;
use std::path::Path;
use std::process::Command;

use overseer::release::library_beside_program;

use crate::ran::Ran;
use crate::world::{Serving, World};

/// What follows `$` in the first block below a heading, without what is said of it.
fn lines(readme: &str, heading: &str) -> Vec<String> {
    let (_, below) = readme.split_once(heading).unwrap();
    let block = below.split("```").nth(1).unwrap();
    let typed = block.lines().filter_map(|line| line.strip_prefix("$ "));
    typed.map(|line| line.split("  #").next().unwrap().trim().to_owned()).collect()
}

/// A line in a shell, with the program in its path.
fn shell(world: &World, line: &str) -> Command {
    let like = world.command(["--version"]);
    let programs = Path::new(env!("CARGO_BIN_EXE_overseer")).parent().unwrap().display();
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(world.path("")).stdin(std::process::Stdio::null());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
    command
}

#[test]
fn the_first_lines_of_the_readme_work_as_they_are_there() {
    let world = World::new();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let lines = lines(&fs::read_to_string(readme).unwrap(), "## Fleets that are served");
    // What the first line builds was built with this test.
    assert_eq!(lines[0], "cargo build -p hello_fleet");
    let library = library_beside_program("hello_fleet").unwrap();
    fs::create_dir(world.path("target")).unwrap();
    std::os::unix::fs::symlink(library.parent().unwrap(), world.path("target/debug")).unwrap();
    let (mut serving, mut said) = (None, String::new());
    for line in &lines[1..] {
        println!("$ {line}");
        match line.strip_suffix(" &") {
            Some(line) => {
                let mut server = Serving::start(shell(&world, &format!("exec {line}")));
                server.wait_for("is ready");
                serving = Some(server);
            }
            None => said = Ran::of(shell(&world, line).output().unwrap()).exits(0).stdout,
        }
    }
    assert!(said.starts_with("\"Hello, world!"), "{said}");
    world.ask(["fleet", "stop", "web"]);
    serving.unwrap().stop();
}
