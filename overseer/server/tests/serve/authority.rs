//! The authority changes under a server that runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::world::{World, eventually};

#[test]
fn labors_and_clients_over_tcp_go_over_to_the_new_authority() {
    let world = World::new();
    world.configure("on_stop = \"end\"\ncontrol = \"127.0.0.1:0\"", &[("a", "labors = 2")]);
    let serving = world.serve();
    world.wait_ready("a", 2);
    let before = world.ask(["authority", "show"]);
    assert_eq!((&before["stage"], before["waits_for"].as_array().unwrap().len()), (&"settled".into(), 0));
    let token = world.path("token");
    world.ask(["token", "new", "--name", "t", "--role", "admin", "--out", token.to_str().unwrap()]);
    let control = world.ask(["status"])["control"].as_str().unwrap().to_owned();
    let ca = |name: &str| {
        let path = world.path(name);
        std::fs::write(&path, world.overseer(["token", "ca"]).exits(0).stdout).unwrap();
        path
    };
    let over_tcp_at = |control: &str, ca: &std::path::Path| {
        let (ca, token) = (ca.to_str().unwrap(), token.to_str().unwrap());
        let asked = ["status", "--server", control, "--server-ca", ca, "--token-file", token, "--json"];
        world.overseer(asked).code
    };
    let over_tcp = |ca: &std::path::Path| over_tcp_at(&control, ca);
    let old = ca("old.pem");
    assert_eq!(over_tcp(&old), 0);

    // Nobody is cut off for so long.
    let rotated = world.ask(["authority", "rotate", "--linger", "1h"]);
    assert_eq!(rotated["stage"], "introduced");
    let left = Duration::from_millis(rotated["clients_until_ms"].as_u64().unwrap())
        .saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    assert!((3500..=3600).contains(&left.as_secs()), "{left:?}");
    let settled = |text: &str| {
        eventually(text, || world.ask(["authority", "show"])["stage"] == "settled");
        world.ask(["authority", "show"])
    };
    let lingers = settled("the first change is done");
    assert_eq!(lingers["clients_until_ms"], rotated["clients_until_ms"]);
    let said = world.overseer(["authority", "show"]).exits(0).stdout;
    assert!(said.contains("until then, give each what `overseer token ca` prints"), "{said}");
    let lingering = ca("lingering.pem");
    assert_eq!((over_tcp(&old), over_tcp(&lingering)), (0, 0));
    // Also by the server after this one.
    serving.stop();
    let serving = world.serve();
    let control = world.ask(["status"])["control"].as_str().unwrap().to_owned();
    let over_tcp = |ca: &std::path::Path| over_tcp_at(&control, ca);
    world.wait_ready("a", 2);
    assert_eq!((over_tcp(&old), over_tcp(&lingering)), (0, 0));
    let refused = world.overseer(["authority", "rotate", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "authority.lingering");

    // Who cannot wait for them ends that.
    let rotated = world.ask(["authority", "rotate", "--linger", "0s"]);
    assert_eq!((&rotated["stage"], rotated["clients_until_ms"].is_null()), (&"introduced".into(), true));
    let both = ca("both.pem");
    let again = world.overseer(["authority", "rotate", "--json"]).exits(2).document();
    assert_eq!(again["code"], "authority.under_way");
    let after = settled("the second change is done");
    assert_ne!(after["certificate"], before["certificate"]);
    let (new, lingering) = (ca("new.pem"), over_tcp(&lingering));
    assert_eq!((over_tcp(&old), lingering, over_tcp(&both), over_tcp(&new)), (2, 2, 0, 0));

    // Nobody was lost, and who comes is served.
    world.wait_ready("a", 2);
    let shown = world.ask(["fleet", "show", &world.fleet("a")]);
    assert!(shown["children"].as_array().unwrap().iter().all(|labor| labor["generation"] == 1), "{shown}");
    world.ask(["fleet", "start", &world.fleet("a"), "--labors", "3"]);
    world.wait_ready("a", 3);
    assert!(world.ask(["fleet", "reconcile", &world.fleet("a")])["found"].as_array().unwrap().is_empty());
    serving.stop();
}
