//! `overseer call`, `logs` and `status`, and how they fail.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::world::{LONG, Serving, World, eventually};

#[test]
fn arguments_and_results_come_and_go_in_every_way() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "")]);
    let serving = world.serve();
    let a = world.fleet("a");
    // It waits for the labor.
    assert_eq!(world.overseer(["call", &a, "echo", "\"hi\""]).exits(0).stdout, "\"hi\"\n");
    assert_eq!(world.overseer(["call", &a, "echo"]).exits(0).stdout, "null\n");
    assert_eq!(world.overseer(["call", &a, "echo", "-1"]).exits(0).stdout, "-1\n");
    fs::write(world.path("argument.json"), "[1,2]").unwrap();
    assert_eq!(world.overseer(["call", &a, "echo", "--file", "argument.json"]).exits(0).stdout, "[1,2]\n");
    let mut piped = world.command(["call", &a, "echo", "-", "--json"]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"{\"b\":true}").unwrap();
    let answer: serde_json::Value =
        serde_json::from_slice(&piped.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(answer["result"], json!({"b": true}));
    // Bytes, and more than one message of the labor's connection holds.
    let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(world.path("bytes"), &bytes).unwrap();
    let output = world.command(["call", &a, "echo", "--raw", "--file", "bytes"]).output().unwrap();
    assert!(output.stdout == bytes, "{} bytes", output.stdout.len());
    assert_eq!(world.ask(["call", &a, "big", "70000"])["bytes"], 70_000);
    serving.stop();
}

#[test]
fn each_way_to_fail_has_its_code_and_its_exit() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", ""), ("none", "labors = 0")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let (a, none) = (world.fleet("a"), world.fleet("none"));
    fs::File::create(world.path("large")).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    let no_labor = "l-01arz3ndektsv4rrffq69g5fav";
    let cases: [(&[&str], i32, &str); 13] = [
        (&["call", &a, "echo", "--raw", "--file", "large"], 2, "call.too_large"),
        (&["call", "nobody", "echo"], 2, "fleet.unknown"),
        (&["call", &a, "echo", "not json"], 2, "call.argument"),
        (&["call", &a, "echo", "--file", "missing"], 2, "call.argument"),
        (&["call", &a, "nothing_such"], 2, "call.answered"),
        (&["call", &a, "sleep", "\"x\""], 2, "call.answered"),
        (&["call", &a, "fail", "\"no bolts\""], 1, "call.answered"),
        (&["call", &a, "sleep", "5000", "--run", "100ms"], 3, "call.answered"),
        (&["call", &none, "echo", "--queue", "50ms"], 3, "call.no_labor"),
        (&["call", &a, "echo", "--labor", no_labor], 2, "labor.unknown"),
        (&["fleet", "drain", &a, "--labor", "x"], 2, "id.malformed"),
        (&["fleet", "history", &a, "--labor", no_labor], 2, "labor.unknown"),
        (&["logs", "x"], 2, "id.malformed"),
    ];
    for (command, exit, code) in cases {
        let ran = world.overseer(command.iter().copied().chain(["--json"])).exits(exit);
        let error = ran.document();
        assert_eq!(error["code"], code, "{command:?}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(ran.stderr.contains(code) && !message.is_empty(), "{}", ran.stderr);
        // Who had the call that failed, and whose logs it has written.
        let ids = ["labor", "task"].map(|id| error[id].as_str().unwrap_or_default());
        assert_eq!(ids.map(|id| !id.is_empty()), [code == "call.answered"; 2], "{error}");
        assert!(ids.iter().all(|id| message.contains(id)), "{error}");
    }
    let late = world.overseer(["call", &a, "sleep", "5000", "--run", "100ms", "--json"]).document();
    assert!(late["help"].as_str().unwrap().contains("--run"), "{late}");
    for command in [&["call", &a, "echo", "--run", "-1s"][..], &["submit", &a, "echo", "--queue", "-1s"]] {
        let refused = world.overseer(command).exits(2).stderr;
        assert!(refused.contains("a time is not below zero"), "{refused}");
    }
    serving.stop();
}

#[test]
fn what_a_call_and_a_labor_write_can_be_read() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let called = world.ask(["call", &a, "log", "3000"]);
    let task = called["task"].as_str().unwrap();
    let followed = ["logs", task, "--attempt", "1", "--stream", "step", "--follow"];
    assert_eq!(world.overseer(followed).exits(0).stdout, "l".repeat(3000));
    assert_eq!(world.overseer(["logs", task, "--from", "2990"]).exits(0).stdout, "l".repeat(10));
    let pieces = world.overseer(["logs", task, "--json"]).exits(0).documents();
    assert_eq!((&pieces[0]["event"], &pieces[0]["offset"]), (&"log".into(), &0.into()));
    let bytes: u64 = pieces.iter().map(|piece| piece["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 3000);
    let none = world.overseer(["logs", task, "--stream", "other", "--json"]).exits(2).document();
    assert_eq!(none["code"], "logs.none");
    let bad = ["logs", task, "--attempt", "1", "--stream", "../x", "--json"];
    assert_eq!(world.overseer(bad).exits(2).document()["code"], "logs.bad_name");
    // What the plugin prints outside of a stream of the call's own.
    world.ask(["call", &a, "print", "100"]);
    let labor = called["labor"].as_str().unwrap();
    eventually("the labor's own output is there", || {
        let ran = world.overseer(["logs", labor]);
        ran.code == 0 && ran.stdout.contains(&"p".repeat(100))
    });
    let earlier = world.overseer(["logs", &format!("{labor}/7"), "--json"]).exits(2).document();
    assert_eq!(earlier["code"], "logs.none");
    serving.stop();
}

#[test]
fn a_call_whose_caller_goes_away_is_cancelled() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    let call = Serving::start(world.command(["call", &a, "wait_cancel", LONG]));
    world.wait_open("a", 1);
    call.signal(rustix::process::Signal::TERM);
    world.ask(["fleet", "drain", &a]);
    // It would wait for the call to end.
    world.wait_ready("a", 0);
    serving.stop();
}

#[test]
fn the_status_names_what_the_server_uses() {
    let world = World::new();
    world.configure("listen = \"127.0.0.1:0\"\non_stop = \"end\"", &[("a", "")]);
    let serving = world.serve();
    let status = world.ask(["status"]);
    assert_eq!(status["socket"], world.socket().to_str().unwrap());
    assert_eq!(status["data"], world.path("data").to_str().unwrap());
    assert_eq!(status["config"], world.path("overseer.toml").to_str().unwrap());
    assert_eq!(status["on_stop"], "end");
    assert!(status["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(status["fleets"][0]["name"], world.fleet("a"));
    let text = world.overseer(["status"]).exits(0).stdout;
    assert!(text.contains(world.socket().to_str().unwrap()), "{text}");
    serving.stop();
}

#[test]
fn a_fleet_that_has_given_its_labors_up_says_so_and_why() {
    let world = World::new();
    let hopeless =
        "labors = 1\nintensity = { restarts = 0, period = \"1m\" }\nenvironment = { PROBE_START = \"fail\" }";
    world.configure("on_stop = \"end\"", &[("a", hopeless)]);
    let mut serving = world.serve();
    serving.wait_for("is given up");
    let a = world.fleet("a");
    eventually("it is seen", || world.ask(["fleet", "show", &a])["given_up"].is_object());
    let shown = world.overseer(["fleet", "show", &a]).exits(0).stdout;
    assert!(shown.contains("1 given up, the last one for this: ") && shown.contains("no bolts"), "{shown}");
    assert!(shown.contains(&format!("overseer fleet start {a}")), "{shown}");
    assert!(world.overseer(["fleet", "list"]).exits(0).stdout.contains("given up"));
    world.ask(["fleet", "stop", &a]);
    assert!(world.ask(["fleet", "show", &a]).get("given_up").is_none());
    serving.stop();
}
