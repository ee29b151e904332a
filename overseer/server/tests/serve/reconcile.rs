//! `overseer fleet reconcile`.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::world::{World, eventually};

/// Ended also where the test has failed.
struct Stray(Child);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_is_shown_and_ended_once_it_was_seen_twice() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    assert_eq!(world.ask(["fleet", "reconcile", &a]), json!({"found": [], "acted": []}));
    let text = world.overseer(["fleet", "reconcile", &a, "--dry-run"]).exits(0).stdout;
    assert_eq!(text, "everything fits\n");

    let labor = "l-01arz3ndektsv4rrffq69g5fav";
    let stray = Command::new("sleep")
        .arg("1000")
        .env("OVERSEER_NODE", format!("{a}/{labor}/3"))
        .stdin(Stdio::null())
        .spawn();
    let mut stray = Stray(stray.unwrap());
    let found = json!([{"rule": "machine_without_intent", "labor": labor, "generation": 3}]);
    eventually("it is found", || world.ask(["fleet", "reconcile", &a, "--dry-run"])["found"] == found);
    assert!(stray.0.try_wait().unwrap().is_none(), "a look ends nothing");
    let first = world.ask(["fleet", "reconcile", &a]);
    assert_eq!((&first["found"], &first["acted"]), (&found, &json!([])));
    assert_eq!(world.ask(["fleet", "reconcile", &a])["acted"], found);
    assert!(!stray.0.wait().unwrap().success());
    assert_eq!(world.ask(["fleet", "show", &a])["ready"], 1);
    serving.stop();
}
