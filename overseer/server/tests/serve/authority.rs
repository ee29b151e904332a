//! The authority changes under a server that runs.

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
    let over_tcp = |ca: &std::path::Path| {
        let (ca, token) = (ca.to_str().unwrap(), token.to_str().unwrap());
        let asked = ["status", "--server", &control, "--server-ca", ca, "--token-file", token, "--json"];
        world.overseer(asked).code
    };
    let old = ca("old.pem");
    assert_eq!(over_tcp(&old), 0);

    let rotated = world.ask(["authority", "rotate"]);
    assert_eq!(rotated["stage"], "introduced");
    let both = ca("both.pem");
    let again = world.overseer(["authority", "rotate", "--json"]).exits(2).document();
    assert_eq!(again["code"], "authority.under_way");
    eventually("it is done", || world.ask(["authority", "show"])["stage"] == "settled");
    let after = world.ask(["authority", "show"]);
    assert_ne!(after["certificate"], before["certificate"]);
    assert_eq!((over_tcp(&old), over_tcp(&both), over_tcp(&ca("new.pem"))), (2, 0, 0));

    // Nobody was lost, and who comes is served.
    world.wait_ready("a", 2);
    let shown = world.ask(["fleet", "show", &world.fleet("a")]);
    assert!(shown["children"].as_array().unwrap().iter().all(|labor| labor["generation"] == 1), "{shown}");
    world.ask(["fleet", "start", &world.fleet("a"), "--labors", "3"]);
    world.wait_ready("a", 3);
    assert!(world.ask(["fleet", "reconcile", &world.fleet("a")])["found"].as_array().unwrap().is_empty());
    serving.stop();
}
