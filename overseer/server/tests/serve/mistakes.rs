//! What is refused, and how it is said.

use std::fs;

use crate::world::{Serving, World};

#[test]
fn without_a_server_every_place_that_was_looked_at_is_named() {
    let world = World::new();
    let commands: [&[&str]; 16] = [
        &["status"],
        &["reload"],
        &["fleet", "list"],
        &["fleet", "show", "a"],
        &["fleet", "start", "a"],
        &["fleet", "stop", "a"],
        &["fleet", "drain", "a"],
        &["fleet", "invite", "a"],
        &["fleet", "events", "a"],
        &["fleet", "history", "a"],
        &["logs", "t-00000000000000000000000000000000"],
        &["submit", "a", "b"],
        &["task", "list", "a"],
        &["task", "show", "t-00000000000000000000000000000000"],
        &["task", "cancel", "t-00000000000000000000000000000000"],
        &["task", "attach", "t-00000000000000000000000000000000"],
    ];
    for command in commands {
        let ran = world.overseer(command.iter().copied().chain(["--json"])).exits(2);
        let error = ran.document();
        assert_eq!((&error["event"], &error["code"]), (&"error".into(), &"server.not_found".into()));
        let message = error["message"].as_str().unwrap();
        let state = world.path("state/control/control.sock");
        for place in [&world.socket(), &state] {
            assert!(message.contains(place.to_str().unwrap()), "{message}");
        }
        assert!(message.contains("/run/overseer/control.sock"), "{message}");
        assert!(error["help"].as_str().unwrap().contains("OVERSEER_SERVER"));
    }
    let named = world.overseer(["call", "a", "b", "--server", "/nowhere"]).exits(2);
    assert!(named.stderr.contains("/nowhere (not there)"), "{}", named.stderr);
}

#[test]
fn a_second_server_is_refused() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[]);
    let serving = world.serve();
    let same = world.overseer(["serve", "--json"]).exits(2).document();
    assert_eq!(same["code"], "store.in_use");
    assert!(same["message"].as_str().unwrap().contains("in use by another process"), "{same}");
    assert!(same["help"].as_str().unwrap().contains("another data directory"), "{same}");
    let socket = world.overseer(["serve", "--data", "other", "--json"]).exits(2).document();
    assert_eq!(socket["code"], "serve.running");
    // The first one is none the worse for it.
    world.ask(["status"]);
    serving.stop();
}

#[test]
fn a_server_that_was_killed_is_followed_by_another() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[]);
    let mut first = world.serve();
    first.signal(rustix::process::Signal::KILL);
    first.end();
    assert!(world.socket().exists());
    let refused = world.overseer(["status"]).exits(2);
    assert!(refused.stderr.contains("nobody listens"), "{}", refused.stderr);
    let second = world.serve();
    world.ask(["status"]);
    second.stop();
    assert!(!world.socket().exists());
}

#[test]
fn a_configuration_is_checked_and_its_mistakes_are_shown() {
    let world = World::new();
    let none = world.overseer(["serve", "--json"]).exits(2).document();
    assert_eq!(none["code"], "serve.no_config");
    assert!(none["message"].as_str().unwrap().contains("config/overseer/overseer.toml"), "{none}");
    let example = world.overseer(["serve", "--example"]).exits(0).stdout;
    assert!(example.contains("[fleets.web]"));
    world.configure("", &[("a", "labors = 2")]);
    let good = world.overseer(["serve", "--check", "--config", "overseer.toml"]).exits(0);
    assert!(good.stdout.contains("2 labors of probe 1.0.0"), "{}", good.stdout);
    assert_eq!(world.ask(["serve", "--check"])["fleets"][0]["labors"], 2);
    world.configure("", &[("a", "labors = 2\nrelese = \"x\"")]);
    let bad = world.overseer(["serve", "--check"]).exits(2);
    for part in ["config.unknown_key", "overseer.toml:9:1", "relese", "did you mean `release`"] {
        assert!(bad.stderr.contains(part), "{part}: {}", bad.stderr);
    }
    let bad = world.overseer(["serve", "--check", "--json"]).exits(2).document();
    assert_eq!((&bad["line"], &bad["column"]), (&9.into(), &1.into()));
    assert_eq!(bad["key"], format!("fleets.{}.relese", world.fleet("a")));
    fs::write(world.path("probe.release"), "not packed").unwrap();
    world.configure("", &[("a", "")]);
    let bad = world.overseer(["serve", "--json"]).exits(2).document();
    assert!(bad["code"].as_str().unwrap().starts_with("release."), "{bad}");
    assert!(!world.path("data").exists(), "nothing was touched");
}

#[test]
fn an_isolation_that_this_machine_does_not_hold_is_seen_before_anything_is_served() {
    let world = World::new();
    world.configure("", &[("a", "isolation = { user = \"nobody-of-here\", open_files = 64 }")]);
    let bad = world.overseer(["serve", "--check", "--json"]).exits(2).document();
    assert_eq!(bad["code"], "serve.isolation");
    let message = bad["message"].as_str().unwrap();
    assert!(message.contains("isolation.user: ") && message.contains("nobody-of-here"), "{message}");
    assert!(bad["help"].is_string(), "{bad}");
    let limits = ["memory", "cpu", "processes"];
    world.configure("", &[("a", "isolation = { memory = \"64MiB\", cpu = \"0.5\", processes = 64 }")]);
    let checked = world.ask(["serve", "--check"]);
    // The doctor knows the same of this machine.
    let report = world.overseer(["doctor", "--json"]).document();
    let checks = report["checks"].as_array().unwrap();
    let had =
        checks.iter().find(|check| check["name"] == "limits of hosts").unwrap()["found"].as_str().unwrap();
    let warnings = checked["warnings"].as_array().cloned().unwrap_or_default();
    let had: Vec<_> = had.split(' ').filter(|key| limits.contains(key)).collect();
    assert_eq!(warnings.len() + had.len(), limits.len(), "{checked} {had:?}");
    assert!(warnings.iter().all(|warning| warning.as_str().unwrap().contains(".isolation.")), "{checked}");
}

#[test]
fn a_socket_directory_of_others_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.configure("socket = \"open/control.sock\"", &[]);
    fs::create_dir(world.path("open")).unwrap();
    fs::set_permissions(world.path("open"), fs::Permissions::from_mode(0o755)).unwrap();
    for args in [&["serve", "--check", "--json"][..], &["serve", "--json"]] {
        let refused = world.overseer(args).exits(2).document();
        assert_eq!(refused["code"], "serve.socket_directory", "{args:?}");
    }
    fs::set_permissions(world.path("open"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut serving = Serving::start(world.command(["serve", "--json"]));
    let ready: serde_json::Value = serde_json::from_str(&serving.wait_for("\"ready\"")).unwrap();
    let socket = world.path("open/control.sock");
    assert_eq!(ready["socket"], socket.to_str().unwrap());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    world.overseer(["status", "--server", socket.to_str().unwrap()]).exits(0);
    let mut status = world.command(["status"]);
    assert!(status.env("OVERSEER_SERVER", &socket).output().unwrap().status.success());
    serving.stop();
}
