//! A disk that fills while fleets and tasks run: a state that is told, and that ends by itself.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::api::health;
use crate::restarts::lives;
use crate::small_disk::SmallDisk;
use crate::world::{Serving, World, eventually};

const LEASE: Duration = Duration::from_secs(5);
const FLEET: &str = "lease = \"5s\"\nsilence = \"3s\"\n";

/// What the server says is wrong: parts, in order.
fn troubles(world: &World) -> Vec<Value> {
    world.ask(["status"])["troubles"].as_array().cloned().unwrap_or_default()
}

fn is_in_trouble(world: &World, part: &str) -> bool {
    troubles(world).iter().any(|trouble| trouble["part"] == part)
}

fn submit(world: &World, args: &[&str]) -> String {
    world.ask(["submit"].iter().chain(args).copied())["task"].as_str().unwrap().to_owned()
}

#[test]
fn what_runs_goes_on_what_is_new_is_refused_and_room_ends_it() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 160 << 10) else { return };
    let place = disk.path().to_str().unwrap();
    world.configure("on_stop = \"end\"", &[("web", &format!("{FLEET}labors = 2")), ("other", "labors = 1")]);
    let mut serving = Serving::start(world.command(["serve", "--data", &format!("{place}/data")]));
    serving.wait_for("is ready");
    world.wait_ready("web", 2);
    world.wait_ready("other", 1);
    let (web, other) = (world.fleet("web"), world.fleet("other"));
    let before = lives(&world, "web");
    let tasks: Vec<String> =
        (0..6).map(|_| submit(&world, &[&web, "wait_file", &world.gate("go")])).collect();
    eventually("all of them run", || {
        tasks.iter().all(|task| world.ask(["task", "show", task])["state"] == "running")
    });
    assert!(troubles(&world).is_empty());
    assert!(health(&world, "overseer.control.v1.Writes"));

    disk.fill(0);
    // The first one who wants something new finds it out.
    let refused = world.overseer(["submit", &web, "echo", "1", "--json"]).exits(3).document();
    assert_eq!(refused["code"], "store.not_writable", "{refused}");
    let said = format!("{} {}", refused["message"], refused["help"]);
    assert!(said.contains(place) && said.contains("bytes are free") && said.contains("make room"), "{said}");
    assert!(is_in_trouble(&world, "store"));
    let store = troubles(&world).into_iter().find(|trouble| trouble["part"] == "store").unwrap();
    assert_eq!(store["file_system"], place, "{store}");
    // The amounts are in one place, and are those of now.
    assert_eq!(store["reason"], "the disk is full", "{store}");
    assert!(store["needed"].as_u64() > store["free"].as_u64() && store["since_ms"].as_u64() > Some(0));
    let text = world.overseer(["status"]).exits(0).stdout;
    assert!(text.contains("read-only") && text.contains("make room"), "{text}");
    let listed = world.overseer(["fleet", "list"]).exits(0);
    assert!(listed.stderr.contains("warning: the server is read-only") && listed.stdout.contains(&web));
    // Who reads is served; only who would write is told not to come.
    assert!(health(&world, "") && health(&world, "overseer.control.v1.Tasks"));
    eventually("health says so", || !health(&world, "overseer.control.v1.Writes"));
    let started = world.overseer(["fleet", "start", &web, "--labors", "3", "--json"]).exits(3).document();
    assert_eq!(started["code"], "store.not_writable", "{started}");

    // Calls, their logs, heartbeats and leases go on; results are kept where they are.
    let call = world.ask(["call", &web, "log", "3000"]);
    let logged = call["task"].as_str().unwrap().to_owned();
    world.go("go");
    for pid in world.nodes_of("other") {
        let _ = kill_process(pid, Signal::KILL);
    }
    let begun = Instant::now();
    while begun.elapsed() < LEASE * 2 {
        world.ask(["call", &web, "echo", "1"]);
        assert!(is_in_trouble(&world, "store"));
    }
    assert_eq!(lives(&world, "web"), before);
    for task in &tasks {
        assert_eq!(world.ask(["task", "show", task])["state"], "running", "not before it can be recorded");
    }
    assert_eq!(world.ask(["fleet", "show", &other])["ready"], 0);

    disk.make_room();
    eventually("it is well again", || troubles(&world).is_empty());
    eventually("health says so", || health(&world, "overseer.control.v1.Writes"));
    for task in &tasks {
        let done = world.ask(["task", "attach", task]);
        assert_eq!(done["attempts"], 1, "{done}");
    }
    world.wait_ready("other", 1);
    assert_eq!(lives(&world, "web"), before);
    eventually("the log is whole", || world.overseer(["logs", &logged]).stdout.len() == 3000);
    submit(&world, &[&web, "echo", "1", "--wait"]);
    world.ask(["fleet", "start", &web, "--labors", "3"]);
    world.wait_ready("web", 3);
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 0);
    let lines = serving.rest();
    let said = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (said(": read-only: the store"), said("no longer read-only: the store")),
        (1, 1),
        "{lines:#?}"
    );
    assert!(said("could not be stored") + said("cannot be kept") <= 1, "{lines:#?}");
}

#[test]
fn a_server_starts_without_room_and_its_labors_are_not_left_alone() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 160 << 10) else { return };
    let data = disk.path().join("data").to_str().unwrap().to_owned();
    world.configure("", &[("web", "labors = 1")]);
    let serve = || {
        let mut serving = Serving::start(world.command(["serve", "--data", &data]));
        serving.wait_for("is ready");
        serving
    };
    let mut serving = serve();
    world.wait_ready("web", 1);
    let before = lives(&world, "web");
    disk.fill(0);
    // What it has not told anybody yet is lost with it, and no entry of its end is in the log.
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 0);
    // The room of what only a server that runs has there, such as its copy of the release.
    disk.fill(0);
    let mut serving = serve();
    world.wait_ready("web", 1);
    assert_eq!(lives(&world, "web"), before);
    world.ask(["call", &world.fleet("web"), "echo", "1"]);
    assert!(is_in_trouble(&world, "store"));
    disk.make_room();
    eventually("it is well again", || troubles(&world).is_empty());
    world.ask(["fleet", "stop", &world.fleet("web")]);
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 0);
}
