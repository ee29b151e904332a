//! `overseer fleet upgrade`: a new release in the place of the old one.

use std::collections::BTreeSet;
use std::fs;

use overseer::release::{ReleaseBuilder, library_beside_program};
use serde_json::json;

use crate::world::{World, eventually};

/// Puts another version of the probe where the configuration has its release.
pub(crate) fn replace(world: &World, version: &str, variables: &[(&str, &str)]) {
    replace_by(world, "probe", version, variables);
}

fn replace_by(world: &World, name: &str, version: &str, variables: &[(&str, &str)]) {
    let library = library_beside_program("probe_plugin").unwrap();
    let builder = ReleaseBuilder::plugin(name, version, library).environment("PROBE_VERSION", version);
    let builder = variables.iter().fold(builder, |builder, (name, value)| builder.environment(*name, *value));
    let packed = world.path("next.release");
    builder.write(&packed).unwrap();
    fs::rename(packed, world.path("probe.release")).unwrap();
}

/// The stages of upgrades, as the events of a fleet tell them.
fn stages(world: &World, fleet: &str) -> Vec<String> {
    let events =
        world.overseer(["fleet", "events", fleet, "--json", "--backlog", "1000"]).exits(0).documents();
    let upgrades = events.into_iter().filter(|event| event["event"] == "upgrade");
    upgrades.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn while_a_fleet_changes_what_each_labor_runs_is_shown() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    let fleet = world.fleet("a");
    replace(&world, "2.0.0", &[]);
    let begun = world.ask(["fleet", "upgrade", &fleet, "--watch", "1h", "--detach"]);
    eventually("one labor has changed", || world.ask(["fleet", "show", &fleet])["upgrade"]["changed"] == 1);
    let shown = world.ask(["fleet", "show", &fleet]);
    let children = shown["children"].as_array().unwrap();
    let runs: BTreeSet<_> = children.iter().map(|labor| labor["release_id"].as_str()).collect();
    assert_eq!(runs, [begun["from"].as_str(), begun["to"].as_str()].into());
    let text = world.overseer(["fleet", "show", &fleet]).exits(0).stdout;
    assert!(text.contains("1/2 labors changed") && text.contains("  release"), "{text}");
    assert!(text.contains(&begun["to"].as_str().unwrap()[..7]), "{text}");
    serving.stop();
}

#[test]
fn a_release_of_another_name_is_warned_of_and_taken() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let fleet = world.fleet("a");
    let warning = |was: &str, is: &str| format!("the fleet {fleet} ran {was}, and is to run {is} now");
    replace_by(&world, "other", "1.0.0", &[]);
    let upgraded = world.overseer(["fleet", "upgrade", &fleet, "--watch", "0s"]).exits(0);
    let said = format!("warning: {}\n", warning("probe", "other"));
    assert!(upgraded.stderr.contains(&said), "{}", upgraded.stderr);
    replace_by(&world, "other", "2.0.0", &[]);
    assert_eq!(world.ask(["fleet", "upgrade", &fleet, "--watch", "0s"]).get("warnings"), None);
    replace(&world, "3.0.0", &[]);
    let upgraded = world.ask(["fleet", "upgrade", &fleet, "--watch", "0s"]);
    assert_eq!(upgraded["warnings"], json!([warning("other", "probe")]));
    assert_eq!(world.ask(["fleet", "show", &fleet])["release"], "probe 3.0.0");
    serving.stop();
}

#[test]
fn a_fleet_runs_the_new_release_and_a_server_that_is_started_again_too() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    let fleet = world.fleet("a");
    let same = world.overseer(["fleet", "upgrade", &fleet]).exits(2);
    assert!(same.stderr.contains("runs this release already"), "{}", same.stderr);
    assert!(same.stderr.contains("replace the file"), "{}", same.stderr);

    replace(&world, "2.0.0", &[]);
    assert_eq!(world.ask(["reload"])["changes"][0]["kind"], "waits");
    let done = world.ask(["fleet", "upgrade", &fleet, "--watch", "0s"]);
    assert_eq!((&done["stage"], &done["changed"], &done["labors"]), (&json!("done"), &json!(2), &json!(2)));
    assert_eq!(world.ask(["call", &fleet, "version"])["result"], "2.0.0");
    let shown = world.ask(["fleet", "show", &fleet]);
    assert_eq!((&shown["release"], shown.get("pending")), (&json!("probe 2.0.0"), None));
    assert_eq!(shown["release_id"], done["to"]);
    assert_eq!((&shown["upgrade"], &shown["children"][1]["release_id"]), (&done, &done["to"]));
    let text = world.overseer(["fleet", "show", &fleet]).exits(0).stdout;
    assert!(text.contains("last upgrade: "), "{text}");
    assert_eq!(stages(&world, &fleet), ["canary", "rolling", "done"]);
    let again = world.ask(["fleet", "upgrade", &fleet, "--follow"]);
    assert_eq!(again, done, "how the last one ended is still known");
    // What was upgraded is what is started.
    world.ask(["fleet", "stop", &fleet]);
    world.ask(["fleet", "start", &fleet]);
    world.wait_ready("a", 2);
    assert_eq!(world.ask(["call", &fleet, "version"])["result"], "2.0.0");
    serving.stop();

    let serving = world.serve();
    world.wait_ready("a", 2);
    assert_eq!(world.ask(["call", &fleet, "version"])["result"], "2.0.0");
    serving.stop();
}

#[test]
fn a_release_that_does_no_good_is_taken_back_and_that_is_an_exit_code() {
    let world = World::new();
    replace(&world, "1.0.0", &[]);
    world.configure("on_stop = \"end\"", &[("a", "labors = 1"), ("b", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let fleet = world.fleet("a");
    let none = world.overseer(["fleet", "upgrade", &fleet, "--follow"]).exits(2);
    assert!(none.stderr.contains("has not been upgraded"), "{}", none.stderr);

    replace(&world, "2.0.0", &[("PROBE_START", "fail")]);
    let back = world.overseer(["fleet", "upgrade", &fleet]).exits(1);
    assert_eq!(stages(&world, &fleet), ["canary", "going_back", "rolled_back"]);
    let events = world.overseer(["fleet", "events", &fleet]).exits(0).stdout;
    assert!(events.lines().any(|line| line.contains("rolled_back") && line.contains("no bolts")), "{events}");
    assert!(back.stdout.contains("no bolts; order some"), "{}", back.stdout);
    assert!(back.stderr.contains("0/1 labors"), "a line for each stage: {}", back.stderr);
    assert_eq!(world.ask(["call", &fleet, "version"])["result"], "1.0.0");
    let reloaded = world.ask(["reload"]);
    assert!(reloaded.to_string().contains("release was taken back; `overseer fleet upgrade"), "{reloaded}");
    assert_eq!(world.ask(["fleet", "show", &fleet])["pending"], json!(["release"]));

    // One that is stopped meanwhile is not done.
    replace(&world, "4.0.0", &[]);
    world.ask(["fleet", "upgrade", &fleet, "--watch", "1h", "--detach"]);
    let reloaded = world.ask(["reload"]).to_string();
    assert!(!reloaded.contains("taken back"), "it is tried: {reloaded}");
    let mut follows = world.command(["fleet", "upgrade", &fleet, "--follow"]).spawn().unwrap();
    world.ask(["fleet", "stop", &fleet]);
    assert_eq!(follows.wait().unwrap().code(), Some(3));
    replace(&world, "1.0.0", &[]);
    let reloaded = world.ask(["reload"]).to_string();
    assert!(reloaded.contains("release takes effect at the next start of the fleet\""), "{reloaded}");
    world.ask(["fleet", "start", &fleet]);
    world.wait_ready("a", 1);

    // What is no release, what is none of ours, what does not run.
    fs::write(world.path("probe.release"), "no release").unwrap();
    let wrong = world.overseer(["fleet", "upgrade", &fleet]).exits(2);
    assert!(wrong.stderr.contains("probe.release"), "{}", wrong.stderr);
    assert_eq!(world.overseer(["fleet", "upgrade", "nobody"]).code, 2);
    world.ask(["fleet", "stop", &world.fleet("b")]);
    replace(&world, "3.0.0", &[]);
    let stopped = world.overseer(["fleet", "upgrade", &world.fleet("b")]).exits(2);
    assert!(stopped.stderr.contains("does not run"), "{}", stopped.stderr);
    serving.stop();
}
