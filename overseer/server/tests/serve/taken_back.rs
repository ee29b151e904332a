//! A release that was taken back, and a server that is started again.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::restarts::lives;
use crate::upgrade::replace;
use crate::world::{Serving, World, eventually};

/// What is kept of releases to go back to.
fn kept(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.path("data/releases")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn shown(world: &World) -> Value {
    world.ask(["fleet", "show", &world.fleet("a")])
}

/// What each labor runs.
fn versions(world: &World) -> Vec<String> {
    let labors = shown(world)["children"].as_array().unwrap().clone();
    let version = |labor: &Value| {
        let called = ["call", &world.fleet("a"), "version", "--labor", labor["id"].as_str().unwrap()];
        world.ask(called)["result"].as_str().unwrap().to_owned()
    };
    labors.iter().map(version).collect()
}

/// A server of a fleet that runs version 1 on two labors.
fn served(world: &World) -> Serving {
    replace(world, "1.0.0", &[]);
    world.configure("", &[("a", "labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    serving
}

/// Begins an upgrade of fleet a that stays on its way, and waits until one labor has changed.
fn begin_upgrade(world: &World) {
    replace(world, "2.0.0", &[]);
    world.ask(["fleet", "upgrade", &world.fleet("a"), "--watch", "1h", "--detach"]);
    eventually("one labor has changed", || shown(world)["upgrade"]["changed"] == 1);
}

fn kill(mut serving: Serving) {
    serving.signal(Signal::KILL);
    serving.end();
}

#[test]
fn a_server_that_is_started_again_goes_on_with_the_release_before() {
    let world = World::new();
    let serving = served(&world);
    let (fleet, before) = (world.fleet("a"), lives(&world, "a"));
    replace(&world, "2.0.0", &[("PROBE_START", "fail")]);
    world.overseer(["fleet", "upgrade", &fleet]).exits(1);
    eventually("why is remembered", || shown(&world)["taken_back"]["cause"].is_object());
    let taken_back = shown(&world)["taken_back"].clone();
    kill(serving);

    let mut serving = Serving::start(world.command(["serve"]));
    serving.wait_for("was taken back");
    serving.wait_for("is ready");
    world.wait_ready("a", 2);
    assert_eq!(lives(&world, "a"), before, "no labor and no plugin host was started again");
    let now = shown(&world);
    assert_eq!((&now["release"], &now["pending"]), (&json!("probe 1.0.0"), &json!(["release"])));
    assert_eq!((&now["taken_back"], &now["release_id"]), (&taken_back, &taken_back["before"]));
    let text = world.overseer(["fleet", "show", &fleet]).exits(0).stdout;
    assert!(text.contains("was taken back: ") && text.contains("no bolts"), "{text}");
    let reloaded = world.ask(["reload"]).to_string();
    assert!(reloaded.contains("release was taken back; `overseer fleet upgrade"), "{reloaded}");
    world.ask(["fleet", "stop", &fleet]);
    world.ask(["fleet", "start", &fleet]);
    world.wait_ready("a", 2);
    assert_eq!(versions(&world), ["1.0.0", "1.0.0"], "also where it is started by hand");

    // It is tried again when somebody says so, and another one in its place.
    world.overseer(["fleet", "upgrade", &fleet]).exits(1);
    replace(&world, "3.0.0", &[]);
    world.ask(["fleet", "upgrade", &fleet, "--watch", "0s"]);
    eventually("it is forgotten", || shown(&world).get("taken_back").is_none() && kept(&world).is_empty());
    kill(serving);
    let serving = world.serve();
    world.wait_ready("a", 2);
    assert_eq!(versions(&world), ["3.0.0", "3.0.0"]);
    serving.stop();
}

#[test]
fn an_upgrade_whose_end_no_server_has_seen_is_taken_back() {
    let world = World::new();
    let serving = served(&world);
    begin_upgrade(&world);
    assert_eq!(shown(&world).get("taken_back"), None, "it is on its way");
    kill(serving);
    let serving = world.serve();
    eventually("all are back", || {
        let now = shown(&world);
        now["ready"] == 2 && versions(&world) == ["1.0.0", "1.0.0"]
    });
    let now = shown(&world);
    assert_eq!((&now["pending"], now["taken_back"].get("cause")), (&json!(["release"]), None));
    assert!(now["children"].as_array().unwrap().iter().all(|labor| labor["generation"] == 1), "{now}");
    // The old file, put back, is another release than the one that was taken back.
    replace(&world, "1.0.0", &[]);
    assert_eq!(world.ask(["reload"]), json!({"changes": []}));
    assert_eq!((shown(&world).get("taken_back"), kept(&world).len()), (None, 0));
    serving.stop();
}

#[test]
fn where_the_release_before_is_not_kept_any_more_the_fleet_waits_for_a_word() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let serving = served(&world);
    let fleet = world.fleet("a");
    begin_upgrade(&world);
    kill(serving);
    let [file] = &kept(&world)[..] else { panic!("{:?}", kept(&world)) };
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    // One byte of a chunk: its lengths are as they should be.
    let mut bytes = fs::read(file).unwrap();
    bytes[100] ^= 1;
    fs::write(file, bytes).unwrap();
    let report = world.ask(["store", "check", "--data", "data"]);
    assert_eq!(report["counts"]["releases that were taken back"], 1, "{report}");

    let serving = world.serve();
    let refused = |wanted: &str| {
        let refused = world.overseer(["fleet", "start", &fleet, "--json"]).exits(2).document();
        assert_eq!(refused["code"], "release.taken_back", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(wanted), "{refused}");
        assert!(refused["help"].as_str().unwrap().contains("--anyway"), "{refused}");
    };
    refused("release");
    let listed = world.overseer(["fleet", "list"]).exits(0).stderr;
    assert!(listed.contains("release.taken_back") && listed.contains("--anyway"), "{listed}");
    let fleet_shown = world.overseer(["fleet", "show", &fleet]).exits(0);
    assert!(fleet_shown.stderr.contains("--anyway"), "{}", fleet_shown.stderr);
    assert!(!fleet_shown.stdout.contains("tries it again"), "{}", fleet_shown.stdout);
    fs::remove_file(file).unwrap();
    refused("No such file");
    world.ask(["fleet", "start", &fleet, "--anyway"]);
    world.wait_ready("a", 2);
    eventually("all run it", || versions(&world) == ["2.0.0", "2.0.0"]);
    assert_eq!(shown(&world).get("taken_back"), None);
    let runs = world.overseer(["fleet", "start", &fleet, "--anyway", "--json"]).exits(2).document();
    assert_eq!(runs["code"], "fleet.running");
    serving.stop();
}
