//! A configuration that changes while the server runs.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::World;

fn change<'a>(changes: &'a Value, fleet: &str, kind: &str) -> Option<&'a str> {
    let mut changes = changes["changes"].as_array().unwrap().iter();
    changes.find(|c| c["kind"] == kind && c.get("fleet").unwrap_or(&json!("")) == fleet)?["text"].as_str()
}

#[test]
fn what_can_change_changes_and_what_cannot_is_named() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1"), ("b", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("b", 1);
    assert_eq!(world.ask(["reload"]), json!({"changes": []}));
    let text = world.overseer(["reload"]).exits(0).stdout;
    assert_eq!(text, "nothing changes\n");

    let (a, b, c) = (world.fleet("a"), world.fleet("b"), world.fleet("c"));
    let changed = "labors = 2\nlease = \"1m\"\nenvironment = { A = \"b\" }";
    world.configure("on_stop = \"end\"\nlisten = \"127.0.0.1:0\"", &[("a", changed), ("c", "labors = 1")]);
    let changes = world.ask(["reload"]);
    assert!(change(&changes, "", "waits").unwrap().starts_with("listen takes effect"), "{changes}");
    assert_eq!(change(&changes, &a, "labors"), Some("1 labor started"));
    let waits = change(&changes, &a, "waits").unwrap();
    assert!(waits.starts_with("lease, environment takes effect at the next start"), "{waits}");
    assert!(change(&changes, &b, "stopped").is_some() && change(&changes, &c, "started").is_some());
    world.wait_ready("a", 2);
    world.wait_ready("c", 1);
    let shown = world.ask(["fleet", "show", &a]);
    assert_eq!(shown["pending"], json!(["lease", "environment"]));
    assert_eq!(world.overseer(["fleet", "show", &b]).code, 2);

    world.configure("listen = \"127.0.0.1:0\"", &[("a", changed), ("c", "labors = 1")]);
    let changes = world.ask(["reload"]);
    assert_eq!(change(&changes, "", "changed"), Some("on_stop is \"keep\" now"));
    world.configure("on_stop = \"end\"", &[("a", changed), ("c", "labors = 1")]);
    world.ask(["reload"]);

    // The next start takes it.
    world.ask(["fleet", "stop", &a]);
    world.ask(["fleet", "start", &a]);
    let environment = world.ask(["call", &a, "env"]);
    assert_eq!(environment["result"]["A"], "b");
    assert_eq!(world.ask(["fleet", "show", &a]).get("pending"), None);
    serving.stop();
}

#[test]
fn a_number_that_was_said_by_hand_is_left() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let serving = world.serve();
    world.ask(["fleet", "start", &world.fleet("a"), "--labors", "2"]);
    world.configure("on_stop = \"end\"", &[("a", "labors = 3")]);
    let changes = world.ask(["reload"]);
    let waits = change(&changes, &world.fleet("a"), "waits").unwrap();
    assert!(waits.contains("overseer fleet start"), "{waits}");
    world.wait_ready("a", 2);
    serving.stop();
}

#[test]
fn a_signal_reloads_and_a_bad_configuration_changes_nothing() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    world.configure("on_stop = \"end\"", &[("a", "labors = 2")]);
    serving.signal(Signal::HUP);
    serving.wait_for("1 labor started");
    world.wait_ready("a", 2);

    world.configure("on_stop = \"end\"", &[("a", "labors = 1\nlabours = 7"), ("b", "labors = 1")]);
    serving.signal(Signal::HUP);
    serving.wait_for("nothing changes");
    serving.wait_for("there is no key `labours`");
    let refused = world.overseer(["reload", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "config.unknown_key");
    assert!(refused["message"].as_str().unwrap().contains("overseer.toml:9:1"), "{refused}");
    // Good by itself, but what it names is not there.
    world.configure("on_stop = \"end\"", &[("a", "labors = 1\ntrust = [\"nobody.pub\"]")]);
    let refused = world.overseer(["reload", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "release.key_not_public");
    world.wait_ready("a", 2);
    serving.stop();
}
