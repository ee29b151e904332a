//! What a server does with a fleet that cannot be as it is wanted.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::world::{World, eventually};

const END: &str = "on_stop = \"end\"";

/// The server and all its nodes, as when the machine loses power.
fn lose_power(world: &World, serving: crate::world::Serving) {
    serving.signal(Signal::KILL);
    let mut serving = serving;
    serving.end();
    eventually("no node is left", || {
        for pid in world.nodes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        world.nodes().is_empty()
    });
}

#[test]
fn more_labors_than_there_may_be_are_refused_and_keep_no_server_from_starting() {
    let world = World::new();
    world.configure("", &[("a", "max_labors = 3")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let refused = world.overseer(["fleet", "start", &a, "--labors", "4", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "fleet.too_many");
    assert!(refused["help"].as_str().unwrap().contains("max_labors"), "{refused}");
    let shown = world.ask(["fleet", "show", &a]);
    assert_eq!((&shown["wanted"], &shown["by_hand"]), (&1.into(), &false.into()));
    world.ask(["fleet", "start", &a, "--labors", "3"]);
    world.wait_ready("a", 3);
    lose_power(&world, serving);
    world.configure(END, &[("a", "max_labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    serving.stop();
}

#[test]
fn labors_that_died_with_their_server_are_replaced_and_no_more_than_that() {
    let world = World::new();
    world.configure("", &[("a", "labors = 2")]);
    for _ in 0..3 {
        let serving = world.serve();
        world.wait_ready("a", 2);
        lose_power(&world, serving);
    }
    world.configure(END, &[("a", "labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    let a = world.fleet("a");
    let shown = world.ask(["fleet", "show", &a]);
    assert_eq!(shown["children"].as_array().unwrap().len(), 2, "{shown}");
    serving.stop();
}

#[test]
fn a_fleet_that_cannot_be_started_keeps_no_other_from_being_served() {
    let world = World::new();
    let (a, b) = (world.fleet("a"), world.fleet("b"));
    let with = |release: &str| {
        world.configure(END, &[("a", ""), ("b", "")]);
        let text = fs::read_to_string(world.path("overseer.toml")).unwrap();
        let (first, second) = text.split_at(text.find(&format!("[fleets.{b}]")).unwrap());
        fs::write(
            world.path("overseer.toml"),
            format!("{first}{}", second.replace("probe.release", release)),
        )
        .unwrap();
    };
    with("none.release");
    let checked = world.overseer(["serve", "--check", "--json"]).exits(2).document();
    assert_eq!(checked["code"], "release.package_io");
    let serving = world.serve();
    world.wait_ready("a", 1);
    let troubles = world.ask(["status"])["troubles"].clone();
    assert_eq!(
        (&troubles[0]["part"], &troubles[0]["path"]),
        (&"fleet".into(), &b.clone().into()),
        "{troubles}"
    );
    assert!(troubles[0]["reason"].as_str().unwrap().contains("none.release"), "{troubles}");
    let listed = world.overseer(["fleet", "list"]).exits(0);
    assert!(listed.stdout.contains(&a) && listed.stderr.contains("is not served"), "{}", listed.stderr);
    let shown = world.overseer(["fleet", "show", &b, "--json"]).exits(2).document();
    assert_eq!(shown["code"], "fleet.not_served");
    assert!(shown["help"].as_str().unwrap().contains("overseer reload"), "{shown}");
    // While that is wrong a reload changes nothing; then it starts the fleet.
    assert_eq!(world.overseer(["reload", "--json"]).exits(2).document()["code"], "release.package_io");
    with("probe.release");
    world.ask(["reload"]);
    world.wait_ready("b", 1);
    assert!(world.ask(["status"])["troubles"].is_null());
    serving.stop();
    // Where there is nothing to serve, it does not serve.
    with("none.release");
    let text =
        fs::read_to_string(world.path("overseer.toml")).unwrap().replace("probe.release", "none.release");
    fs::write(world.path("overseer.toml"), text).unwrap();
    assert_eq!(world.overseer(["serve", "--json"]).exits(2).document()["code"], "release.package_io");
}

#[test]
fn a_configuration_that_was_emptied_ends_nothing() {
    let world = World::new();
    world.configure(END, &[("a", "")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let whole = fs::read_to_string(world.path("overseer.toml")).unwrap();
    fs::write(world.path("overseer.toml"), "").unwrap();
    assert!(world.overseer(["serve", "--check"]).exits(0).stdout.contains("has no fleet"));
    let refused = world.overseer(["reload", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "config.no_fleets");
    world.wait_ready("a", 1);
    fs::write(world.path("overseer.toml"), whole).unwrap();
    world.ask(["reload"]);
    // One that was stopped may go.
    world.ask(["fleet", "stop", &world.fleet("a")]);
    world.configure(END, &[]);
    world.ask(["reload"]);
    assert_eq!(world.ask(["fleet", "list"])["fleets"], serde_json::json!([]));
    serving.stop();
}
