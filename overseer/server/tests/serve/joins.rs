//! Machines that join by hand: `overseer fleet invite` here, `overseer labor join` there.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::ran::Ran;
use crate::world::{Serving, World, eventually};

/// `[server]` with a port that was free just now. It stays the same over restarts, for that is where
/// machines dial again.
fn listening(more: &str) -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("listen = \"127.0.0.1:{port}\"\n{more}")
}

fn invite(world: &World, fleet: &str) -> (String, String) {
    let invited = world.ask(["fleet", "invite", &world.fleet(fleet)]);
    let text = |key: &str| invited[key].as_str().unwrap().to_owned();
    (text("token"), text("labor"))
}

/// A machine that joins, in a directory of its own.
fn join(world: &World, token: &str) -> Serving {
    Serving::start(world.command(["labor", "join", token, "--dir", "machine"]))
}

/// One that is not let in.
fn refused(world: &World, token: &str) -> Ran {
    world.overseer(["labor", "join", token, "--dir", "machine"])
}

fn labor(world: &World, fleet: &str, id: &str) -> Option<Value> {
    let shown = world.ask(["fleet", "show", &world.fleet(fleet)]);
    shown["children"].as_array().unwrap().iter().find(|labor| labor["id"] == id).cloned()
}

fn wait_state(world: &World, fleet: &str, id: &str, state: &str) {
    eventually(&format!("{id} is {state}"), || {
        labor(world, fleet, id).is_some_and(|labor| labor["state"] == state)
    });
}

#[test]
fn a_machine_joins_works_outlives_the_server_and_is_drained() {
    let world = World::new();
    world.configure(&listening(""), &[("farm", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("farm", 1);
    let farm = world.fleet("farm");
    let (token, id) = invite(&world, "farm");
    assert!(token.starts_with("overseer-join-"), "{token}");
    let waiting = labor(&world, "farm", &id).unwrap();
    assert_eq!((&waiting["state"], &waiting["invited"]), (&"booting".into(), &true.into()));

    let mut machine = join(&world, &token);
    machine.wait_for(&format!("joined fleet {farm} as labor {id}"));
    machine.wait_for("connected to 127.0.0.1:");
    machine.wait_for("ready");
    world.wait_ready("farm", 2);
    for file in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{file}", machine.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains(&token), "the token is in {file}");
    }
    let text = world.overseer(["fleet", "show", &farm]).exits(0).stdout;
    assert!(text.contains("invited") && text.contains("local"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // It does not count for the number that is wanted, and works as the others do.
    let host = world.ask(["call", &farm, "pid", "--labor", &id])["result"].clone();
    let environment = world.ask(["call", &farm, "env", "--labor", &id])["result"].to_string();
    assert!(!environment.contains("overseer-join-"), "{environment}");
    world.ask(["fleet", "start", &farm, "--labors", "0"]);
    world.wait_ready("farm", 1);
    let task = world.ask(["submit", &farm, "echo", "7", "--wait"]);
    assert_eq!((&task["labor"], &task["result"]), (&id.as_str().into(), &7.into()));
    world.ask(["fleet", "start", &farm, "--labors", "1"]);
    world.wait_ready("farm", 2);

    // What there is to know of it outlives the server; nothing is found to be wrong with it.
    serving.signal(Signal::KILL);
    serving.end();
    machine.wait_for("lost, dialling again");
    let serving = world.serve();
    machine.wait_for("connected to");
    world.wait_ready("farm", 2);
    assert_eq!(world.ask(["call", &farm, "pid", "--labor", &id])["result"], host);
    assert_eq!(labor(&world, "farm", &id).unwrap()["invited"], true);
    for _ in 0..3 {
        assert_eq!(world.ask(["fleet", "reconcile", &farm]), json!({"found": [], "acted": []}));
    }

    // Pasted twice, while it lives and when it is over.
    let twice = refused(&world, &token).exits(11).stderr;
    for part in ["refused", "was used before", &format!("overseer fleet invite {farm}")] {
        assert!(twice.contains(part), "{part}: {twice}");
    }
    world.ask(["fleet", "drain", &farm, "--labor", &id]);
    assert_eq!(machine.end(), 0);
    machine.wait_for("the Overseer ends it: asked for");
    machine.wait_for("ended: asked to end, or drained");
    eventually("its slot is free", || labor(&world, "farm", &id).is_none());
    refused(&world, &token).exits(11);
    world.wait_ready("farm", 1);
    world.ask(["reload"]);
    assert_eq!(world.ask(["fleet", "show", &farm])["labors"], 1, "it is not replaced");
    world.ask(["fleet", "stop", &farm]);
    serving.stop();
    assert!(world.nodes().is_empty());
}

#[test]
fn a_token_may_be_piped_in_and_a_fleet_that_stops_ends_its_machines() {
    let world = World::new();
    let times = "labors = 0\nmax_labors = 1\nheartbeat = \"200ms\"\nsilence = \"1s\"\ngrace = \"20s\"";
    world.configure(&listening("on_stop = \"end\""), &[("farm", times)]);
    let serving = world.serve();
    let farm = world.fleet("farm");
    let printed = world.overseer(["fleet", "invite", &farm, "--ttl", "1h", "--token"]).exits(0);
    assert!(printed.stderr.contains("which only this machine can reach"), "{}", printed.stderr);
    // A mail has wrapped it.
    fs::write(world.path("token"), printed.stdout.replacen("AA", "A\nA", 1)).unwrap();
    let full = world.command(["fleet", "invite", &farm, "--json"]).output().unwrap();
    assert_eq!(Ran::of(full).exits(3).document()["code"], "fleet.at_capacity");

    let mut command = world.command(["labor", "join", "-", "--dir", "machine", "--json"]);
    command.stdin(Stdio::from(fs::File::open(world.path("token")).unwrap()));
    let mut machine = Serving::start(command);
    let mut next = |event: &str| -> Value {
        serde_json::from_str(&machine.wait_for(&format!("\"event\":\"{event}\""))).unwrap()
    };
    let id = next("joined")["labor"].as_str().unwrap().to_owned();
    next("ready");
    wait_state(&world, "farm", &id, "ready");

    // One that is silent for less than the grace goes on.
    machine.signal(Signal::STOP);
    wait_state(&world, "farm", &id, "lost");
    machine.signal(Signal::CONT);
    wait_state(&world, "farm", &id, "ready");

    // What is wanted and has no slot is no reason to refuse what is wanted.
    let started = world.ask(["fleet", "start", &farm, "--labors", "1"]);
    assert_eq!((&started["started"], &started["labors"]), (&0.into(), &1.into()));

    world.ask(["fleet", "stop", &farm]);
    let mut next = |event: &str| -> Value {
        serde_json::from_str(&machine.wait_for(&format!("\"event\":\"{event}\""))).unwrap()
    };
    assert_eq!(next("ending")["code"], "asked");
    assert_eq!(next("ended")["exit"], 0);
    assert_eq!(machine.end(), 0);
    serving.stop();
}

#[test]
fn a_machine_that_is_gone_keeps_its_slot_for_its_lease_and_is_not_replaced() {
    let world = World::new();
    let times = "labors = 0\nheartbeat = \"200ms\"\nsilence = \"1s\"\ngrace = \"1s\"\nlease = \"4s\"";
    world.configure(&listening("on_stop = \"end\""), &[("farm", times)]);
    let mut serving = world.serve();
    let (token, id) = invite(&world, "farm");
    // An invitation outlives the server that has given it.
    serving.signal(Signal::KILL);
    serving.end();
    let serving = world.serve();
    let mut machine = join(&world, &token);
    machine.wait_for("ready");
    machine.signal(Signal::KILL);
    machine.end();
    wait_state(&world, "farm", &id, "terminating");
    eventually("its slot is free", || labor(&world, "farm", &id).is_none());
    let history =
        world.overseer(["fleet", "history", &world.fleet("farm"), "--labor", &id, "--json"]).exits(0);
    assert_eq!(history.documents().last().unwrap()["cause"]["code"], "connection_lost");
    serving.stop();
}

#[test]
fn what_cannot_be_invited_or_joined_says_why() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("farm", "labors = 0")]);
    let serving = world.serve();
    let farm = world.fleet("farm");
    let invite_badly = |args: &[&str]| {
        world.overseer(["fleet", "invite", "--json"].iter().chain(args).copied()).exits(2).document()
    };
    let deaf = invite_badly(&[&farm]);
    assert_eq!(deaf["code"], "fleet.invite_no_listener");
    assert!(deaf["help"].as_str().unwrap().contains("listen = \"0.0.0.0:7400\" in [server]"), "{deaf}");
    serving.stop();

    world.configure(&listening("on_stop = \"end\""), &[("farm", "labors = 0"), ("idle", "labors = 0")]);
    let serving = world.serve();
    assert_eq!(invite_badly(&[&farm, "--ttl", "8d"])["code"], "fleet.invite_ttl");
    assert_eq!(invite_badly(&[&farm, "--ttl", "0s"])["code"], "fleet.invite_ttl");
    for address in ["host", "host:", ":7400", "host:0", "ho st:1", "https://host:1"] {
        assert_eq!(invite_badly(&[&farm, "--address", address])["code"], "fleet.invite_bad_address");
    }
    let named = world.ask(["fleet", "invite", &farm, "--address", "build.example.org:7400"]);
    assert_eq!(named["endpoints"], json!(["build.example.org:7400"]));
    world.ask(["fleet", "drain", &farm, "--labor", named["labor"].as_str().unwrap()]);
    assert_eq!(labor(&world, "farm", named["labor"].as_str().unwrap()), None, "nobody has taken it");

    // Nothing is dialled with a token that is no token.
    let (token, _) = invite(&world, "farm");
    let (cut, mut mistaken) = (&token[..token.len() - 7], token.clone());
    mistaken.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
    for (text, code) in
        [(cut, "join_token.damaged"), (&*mistaken, "join_token.damaged"), ("l-01k9", "join_token.not_one")]
    {
        let ran = world.overseer(["labor", "join", text, "--json"]).exits(10);
        let ended = ran.document();
        assert_eq!((&ended["event"], &ended["code"]), (&"ended".into(), &code.into()));
        assert!(!ran.stderr.contains(&token[20..40]), "{}", ran.stderr);
    }

    // One whose time is over, and one whose fleet was stopped.
    let short = world.ask(["fleet", "invite", &farm, "--ttl", "1s"]);
    eventually("its slot is free", || labor(&world, "farm", short["labor"].as_str().unwrap()).is_none());
    let late = refused(&world, short["token"].as_str().unwrap()).exits(11).stderr;
    assert!(late.contains("by this machine's clock the invitation was good until"), "{late}");
    let (stopped, _) = invite(&world, "idle");
    world.ask(["fleet", "stop", &world.fleet("idle")]);
    let stopped = refused(&world, &stopped).exits(11).stderr;
    assert!(stopped.contains("or the fleet") && stopped.contains("was stopped"), "{stopped}");
    serving.stop();
}
