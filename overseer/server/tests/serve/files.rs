//! A server whose file descriptors are used up: by clients, by who calls itself a labor, by labors.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::restarts::lives;
use crate::world::{Serving, World, eventually};

/// A server that may have so many file descriptors and no more.
fn serve_with(world: &World, files: u32) -> Serving {
    let plain = world.command(["serve"]);
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$0\" serve");
    command.args(["-c", &script]).arg(plain.get_program());
    command.current_dir(plain.get_current_dir().unwrap()).stdin(std::process::Stdio::null());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut serving = Serving::start(command);
    serving.wait_for("is ready");
    serving
}

/// Milliseconds that a process has worked.
fn worked(pid: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths of a second.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

fn flood(socket: &Path, connections: usize) -> Vec<UnixStream> {
    (0..connections).map_while(|_| UnixStream::connect(socket).ok()).collect()
}

#[test]
fn a_flood_of_connections_costs_those_who_come_and_nobody_who_is_there() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("web", "labors = 1")]);
    let mut serving = serve_with(&world, 64);
    world.wait_ready("web", 1);
    let before = lives(&world, "web");
    let pid = world.ask(["status"])["pid"].as_u64().unwrap();
    let web = world.fleet("web");
    let mut open = Serving::start(world.command(["call", &web, "wait_file", &world.gate("go")]));
    world.wait_open("web", 1);

    let mut clients = flood(&world.socket(), 100);
    let mut labors = flood(&world.path("data/labors.sock"), 100);
    assert!(clients.len() == 100 && labors.len() >= 50);
    let mut refused = Value::Null;
    eventually("somebody is refused", || {
        let ran = world.overseer(["status", "--json"]);
        refused = if ran.code == 0 { Value::Null } else { ran.document() };
        refused["code"] == "server.full"
    });
    assert!(refused["help"].as_str().unwrap().contains("LimitNOFILE"), "{refused}");
    // It does not spin. The debug build of a busy machine has its time.
    let (begun, before_work) = (Instant::now(), worked(pid));
    eventually("three seconds pass", || begun.elapsed() > Duration::from_secs(3));
    let share = (worked(pid) - before_work) as f64 / begun.elapsed().as_millis() as f64;
    assert!(share < 0.5, "{share} of a processor");
    // Who was there is still there.
    world.go("go");
    assert_eq!(open.end(), 0);

    clients.clear();
    labors.clear();
    eventually("clients are let in", || world.overseer(["status"]).code == 0);
    eventually("nothing is wrong any more", || world.ask(["status"])["troubles"].is_null());
    assert_eq!(lives(&world, "web"), before);
    world.ask(["fleet", "start", &web, "--labors", "2"]);
    world.wait_ready("web", 2);
    world.ask(["submit", &web, "echo", "1", "--wait"]);
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.end(), 0);
    let lines = serving.rest();
    let told = lines.iter().filter(|line| line.contains("too many connections")).count();
    assert!((1..=3).contains(&told), "{lines:#?}");
    let help = lines.iter().any(|line| line.contains("LimitNOFILE"));
    assert!(help, "{lines:#?}");
    world.overseer(["store", "check", "--data", "data", "--deep"]).exits(0);
}

#[test]
fn more_labors_than_there_are_file_descriptors_for_wait_and_are_not_given_up() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("web", "labors = 1")]);
    let mut serving = serve_with(&world, 48);
    world.wait_ready("web", 1);
    let before = lives(&world, "web");
    let web = world.fleet("web");
    world.ask(["fleet", "start", &web, "--labors", "16"]);
    // Somebody may be turned away just then.
    let asked = |args: &[&str]| {
        let ran = world.overseer(args.iter().chain(&["--json"]).copied());
        if ran.code == 0 { ran.document() } else { Value::Null }
    };
    eventually("it is overloaded, and says so", || {
        let troubles = asked(&["status"])["troubles"].as_array().cloned().unwrap_or_default();
        troubles.iter().any(|trouble| trouble["part"] == "files")
    });
    // What is there works, and nothing is given up.
    eventually("a call", || !asked(&["call", &web, "echo", "1"]).is_null());
    let mut shown = Value::Null;
    eventually("the fleet is shown", || {
        shown = asked(&["fleet", "show", &web]);
        !shown.is_null()
    });
    assert_eq!(shown["labors"], 16, "{shown}");
    eventually("fewer are wanted", || !asked(&["fleet", "start", &web, "--labors", "1"]).is_null());
    eventually("all but one are gone", || asked(&["fleet", "show", &web])["labors"] == 1);
    eventually("nothing is wrong any more", || {
        let status = asked(&["status"]);
        !status.is_null() && status["troubles"].is_null()
    });
    let after = lives(&world, "web");
    assert!(after.len() == 1 && (after == before || before.is_disjoint(&after)), "{after:?}");
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.end(), 0);
    world.overseer(["store", "check", "--data", "data"]).exits(0);
}
