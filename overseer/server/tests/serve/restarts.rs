//! Labors that outlive the server: the next one goes on with them.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{LONG, Serving, World};

/// Id and generation of each labor, and the process of its plugin host.
pub(crate) fn lives(world: &World, fleet: &str) -> BTreeSet<(String, u64, u64)> {
    let name = world.fleet(fleet);
    let children = world.ask(["fleet", "show", &name])["children"].as_array().unwrap().clone();
    let life = |labor: &Value| {
        let id = labor["id"].as_str().unwrap().to_owned();
        let host = world.ask(["call", &name, "pid", "--labor", &id])["result"].as_u64().unwrap();
        (id, labor["generation"].as_u64().unwrap(), host)
    };
    children.iter().map(life).collect()
}

#[test]
fn labors_that_are_kept_go_on_under_the_next_server() {
    let world = World::new();
    world.configure("", &[("web", "labors = 2")]);
    let mut serving = world.serve();
    world.wait_ready("web", 2);
    let before = lives(&world, "web");
    assert_eq!(before.len(), 2);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        serving.signal(signal);
        let code = serving.end();
        assert_eq!(code, if signal == Signal::TERM { 0 } else { -1 });
        let said = serving.rest();
        assert!(!said.iter().any(|line| line.contains("cut off")), "every connection has ended: {said:?}");
        assert!(!said.iter().any(|line| line.contains("WARN")), "nothing is wrong: {said:?}");
        assert!(!world.nodes().is_empty());
        serving = world.serve();
        world.wait_ready("web", 2);
        assert_eq!(lives(&world, "web"), before, "after {signal:?}");
    }
    world.configure("on_stop = \"end\"", &[("web", "labors = 2")]);
    world.ask(["reload"]);
    serving.stop();
    assert!(world.nodes().is_empty());
}

#[test]
fn a_call_that_is_open_when_the_server_leaves_is_told_and_its_labor_goes_on() {
    let world = World::new();
    world.configure("grace = \"200ms\"", &[("web", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("web", 1);
    let before = lives(&world, "web");
    let mut call = Serving::start(world.command(["call", &world.fleet("web"), "wait_cancel", LONG]));
    world.wait_open("web", 1);
    serving.signal(Signal::TERM);
    assert_eq!((call.end(), serving.end()), (3, 0));
    let serving = world.serve();
    world.wait_ready("web", 1);
    assert_eq!(lives(&world, "web"), before);
    world.configure("on_stop = \"end\"", &[("web", "labors = 1")]);
    world.ask(["reload"]);
    serving.stop();
}
