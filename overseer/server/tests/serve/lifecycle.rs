//! Fleets from start to stop, by hand and over restarts of the server.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use rustix::process::{Signal, kill_process};

use crate::world::{Serving, World, eventually};

const END: &str = "on_stop = \"end\"";

#[test]
fn a_fleet_is_kept_called_watched_drained_and_started_again() {
    let world = World::new();
    world.configure(END, &[("web", "labors = 2\nmax_labors = 4")]);
    let serving = world.serve();
    world.wait_ready("web", 2);
    let web = world.fleet("web");

    let listed = world.ask(["fleet", "list"]);
    let fleet = &listed["fleets"][0];
    assert_eq!((&fleet["name"], &fleet["state"]), (&web.clone().into(), &"running".into()));
    assert_eq!((&fleet["wanted"], &fleet["ready"]), (&2.into(), &2.into()));
    assert_eq!((&fleet["release"], &fleet["by_hand"]), (&"probe 1.0.0".into(), &false.into()));
    let text = world.overseer(["fleet", "list"]).exits(0).stdout;
    assert!(text.contains("running") && text.lines().all(|line| line.chars().count() <= 80), "{text}");

    let answer = world.ask(["call", &web, "echo", r#"{"a": [1, 2]}"#]);
    assert_eq!(answer["result"], serde_json::json!({"a": [1, 2]}));
    let labor = answer["labor"].as_str().unwrap();
    let other = world.ask(["fleet", "show", &web])["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|labor| labor["id"].as_str().unwrap().to_owned())
        .find(|id| id != labor)
        .unwrap();
    let answer = world.ask(["call", &web, "echo", "1", "--labor", &other]);
    assert_eq!(answer["labor"], other.as_str());

    let events = world.overseer(["fleet", "events", &web, "--json"]).exits(0).documents();
    assert_eq!(events.iter().filter(|event| event["state"] == "ready").count(), 2, "{events:?}");
    let sequences: Vec<_> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{sequences:?}");
    let history =
        world.overseer(["fleet", "history", &web, "--labor", &other, "--json"]).exits(0).documents();
    assert!(history.iter().all(|event| event["labor"] == other.as_str()));

    // One labor, and then all of them; none is replaced.
    assert_eq!(world.ask(["fleet", "drain", &web, "--labor", &other])["draining"], 1);
    world.wait_ready("web", 1);
    assert_eq!(world.ask(["fleet", "start", &web])["started"], 1);
    world.wait_ready("web", 2);
    assert_eq!(world.ask(["fleet", "drain", &web])["draining"], 2);
    world.wait_ready("web", 0);
    assert_eq!(world.ask(["fleet", "show", &web])["wanted"], 0);
    assert_eq!(world.ask(["fleet", "start", &web, "--labors", "3"])["started"], 3);
    world.wait_ready("web", 3);
    assert_eq!(world.ask(["fleet", "start", &web, "--labors", "1"])["draining"], 2);
    world.wait_ready("web", 1);
    let full = world.overseer(["fleet", "start", &web, "--labors", "5", "--json"]).exits(2).document();
    assert_eq!(full["code"], "fleet.too_many");
    assert!(full["help"].as_str().unwrap().contains("max_labors"), "{full}");

    let stopped = world.ask(["fleet", "stop", &web]);
    assert_eq!((&stopped["state"], &stopped["by_hand"]), (&"stopped".into(), &true.into()));
    assert!(world.nodes().is_empty());
    let refused = world.overseer(["call", &web, "echo", "1", "--json"]).exits(2).document();
    assert_eq!(refused["code"], "fleet.not_running");
    assert!(refused["help"].as_str().unwrap().contains("overseer fleet start"));
    world.overseer(["fleet", "start", &web]).exits(0);
    world.wait_ready("web", 2);
    serving.stop();
    assert!(world.nodes().is_empty(), "on_stop = \"end\" leaves nothing");
}

#[test]
fn what_was_said_by_hand_outlives_the_server() {
    let world = World::new();
    world.configure(END, &[("a", "labors = 1"), ("b", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    world.ask(["fleet", "stop", &world.fleet("a")]);
    world.ask(["fleet", "start", &world.fleet("b"), "--labors", "2"]);
    serving.stop();
    let serving = world.serve();
    world.wait_ready("b", 2);
    assert_eq!(world.ask(["fleet", "show", &world.fleet("a")])["state"], "stopped");
    // Started without a number, it is as the configuration says, from then on.
    let started = world.ask(["fleet", "start", &world.fleet("b")]);
    assert_eq!((&started["draining"], &started["by_hand"]), (&1.into(), &false.into()));
    serving.stop();
}

#[test]
fn a_labor_that_dies_is_replaced_and_who_follows_is_told() {
    let world = World::new();
    world.configure(END, &[("web", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("web", 1);
    let web = world.fleet("web");
    let follow = world.command(["fleet", "events", &web, "--follow", "--backlog", "1", "--json"]);
    let mut follower = crate::world::Serving::start(follow);
    let newest: serde_json::Value = serde_json::from_str(&follower.wait_for("\"event\"")).unwrap();
    assert_eq!(newest["state"], "ready");
    let agents = world.nodes();
    for pid in agents {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let backoff: serde_json::Value = serde_json::from_str(&follower.wait_for("signal")).unwrap();
    assert!(backoff["cause"]["text"].as_str().unwrap().contains("signal"), "{backoff}");
    let ready: serde_json::Value = serde_json::from_str(&follower.wait_for("\"ready\"")).unwrap();
    assert_eq!(ready["generation"], 2);
    serving.stop();
    follower.wait_for("server.stopping");
    assert_eq!(follower.end(), 3);
}

#[test]
fn labors_that_are_kept_outlive_the_server_until_their_lease_ends() {
    let world = World::new();
    let short = "labors = 1\nheartbeat = \"200ms\"\nsilence = \"800ms\"\nlease = \"3s\"";
    world.configure("", &[("web", short)]);
    let serving = world.serve();
    world.wait_ready("web", 1);
    serving.stop();
    assert!(!world.nodes().is_empty(), "the default is to keep them");
    eventually("their lease ends them", || world.nodes().is_empty());
}

#[test]
fn commands_find_the_server_and_the_data_that_the_configuration_names() {
    let world = World::new();
    fs::DirBuilder::new().mode(0o700).create(world.path("elsewhere")).unwrap();
    world.configure("socket = \"elsewhere/control.sock\"\non_stop = \"end\"", &[]);
    let serving = world.serve();
    assert_eq!(world.ask(["status"])["socket"], world.path("elsewhere/control.sock").to_str().unwrap());
    serving.stop();
    let checked = world.ask(["store", "check"]);
    assert_eq!(
        (&checked["ok"], &checked["data"]),
        (&true.into(), &world.path("data").to_str().unwrap().into())
    );
}

#[test]
fn a_fleet_that_its_escalation_has_stopped_says_why_until_it_is_started_again() {
    let world = World::new();
    let stops = "labors = 2\nescalation = \"stop_fleet\"\nintensity = { restarts = 0, period = \"1h\" }";
    world.configure(END, &[("web", stops)]);
    let mut serving = world.serve();
    world.wait_ready("web", 2);
    let web = world.fleet("web");
    for pid in world.nodes_of("web") {
        let _ = kill_process(pid, Signal::KILL);
    }
    let line = serving.wait_for("the fleet ends all its labors and itself");
    assert!(line.contains("ERROR") && line.contains(&web) && line.contains("more than 0 restarts"), "{line}");
    eventually("it has stopped", || world.ask(["fleet", "show", &web])["state"] == "stopped");
    for asked in [vec!["fleet", "list"], vec!["status"]] {
        let fleet = world.ask(&asked)["fleets"][0].clone();
        assert_eq!((&fleet["state"], &fleet["stopped_by"]["code"]), (&"stopped".into(), &"policy".into()));
    }
    for asked in [vec!["fleet", "list"], vec!["status"], vec!["fleet", "show", &web]] {
        let text = world.overseer(&asked).exits(0).stdout;
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(words.join(" ").contains("overseer fleet start"), "{text}");
    }
    world.ask(["fleet", "start", &web]);
    world.wait_ready("web", 2);
    assert!(world.ask(["fleet", "show", &web])["stopped_by"].is_null());
    serving.stop();
}

#[test]
fn a_death_is_a_line_in_the_log_and_what_was_asked_for_is_no_warning() {
    let world = World::new();
    world.configure(END, &[("web", "labors = 1")]);
    let mut serving = Serving::start(world.command(["serve", "-v"]));
    serving.wait_for("the fleet has started");
    serving.wait_for("is ready");
    world.wait_ready("web", 1);
    for pid in world.nodes_of("web") {
        let _ = kill_process(pid, Signal::KILL);
    }
    let line = serving.wait_for("a labor is replaced");
    assert!(line.contains("WARN") && line.contains(&world.fleet("web")) && line.contains("cause="), "{line}");
    world.wait_ready("web", 1);
    world.ask(["fleet", "drain", &world.fleet("web")]);
    let line = serving.wait_for("a labor has ended");
    assert!(line.contains("INFO"), "{line}");
    world.ask(["fleet", "stop", &world.fleet("web")]);
    serving.wait_for("the fleet has ended");
    serving.stop();
}

#[test]
fn labors_of_a_user_share_what_they_have_had_of_releases_unless_their_fleet_says_otherwise() {
    let world = World::new();
    world.configure(
        END,
        &[
            ("shares", "labors = 2"),
            ("apart", "release_cache = { directory = \"apart\", quota = \"1GiB\" }"),
            ("none", "release_cache = { directory = \"none\", quota = \"0\" }"),
        ],
    );
    let serving = world.serve();
    world.wait_ready("shares", 2);
    world.wait_ready("apart", 1);
    world.wait_ready("none", 1);
    let kept = |directory: &str| fs::read_dir(world.path(directory)).map_or(0, Iterator::count);
    assert_eq!((kept("cache/labors/releases"), kept("apart/releases")), (1, 1));
    assert!(!world.path("none").exists());
    serving.stop();
}
