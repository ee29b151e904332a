//! `overseer submit` and `overseer task`: tasks that outlive who gives them, and the server.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;

use crate::ran::Ran;
use crate::world::{LONG, Serving, World, eventually};

const END: &str = "on_stop = \"end\"";

fn submit(world: &World, args: &[&str]) -> String {
    let submitted = world.ask(["submit"].iter().chain(args).copied());
    submitted["task"].as_str().unwrap().to_owned()
}

#[test]
fn a_task_is_submitted_by_one_and_waited_for_by_another() {
    let world = World::new();
    world.configure(END, &[("a", ""), ("b", "labors = 1")]);
    let serving = world.serve();
    let (a, b) = (world.fleet("a"), world.fleet("b"));

    let task = world.overseer(["submit", &b, "echo", r#"{"n": 1}"#]).exits(0).stdout.trim().to_owned();
    assert!(task.starts_with("t-"), "{task}");
    // Its fleet is found.
    let attached = world.ask(["task", "attach", &task]);
    assert_eq!((&attached["task"], &attached["fleet"]), (&task.clone().into(), &b.clone().into()));
    assert_eq!((&attached["result"]["n"], &attached["attempts"]), (&1.into(), &1.into()));
    assert_eq!(world.overseer(["task", "attach", &task]).exits(0).stdout, "{\"n\": 1}\n");
    assert_eq!(world.ask(["task", "attach", &task, "--raw"])["text"], "{\"n\": 1}");
    let shown = world.ask(["task", "show", &task]);
    assert_eq!((&shown["state"], &shown["method"]), (&"done".into(), &"echo".into()));
    assert_eq!((&shown["labor"], &shown["payload_bytes"]), (&attached["labor"], &8.into()));
    assert!(world.overseer(["task", "show", &task]).exits(0).stdout.contains("done"));

    // Waiting for it, from a file, with bytes that need many messages.
    fs::write(world.path("large"), "y".repeat(9_000_000)).unwrap();
    let waited = ["submit", &b, "echo", "--raw", "--file", "large", "--wait"];
    let waited = world.overseer(waited).exits(0);
    assert_eq!((waited.stdout.len(), waited.stderr.starts_with("task t-")), (9_000_000, true));

    // While no labor is there it waits, and says so.
    world.ask(["fleet", "drain", &a]);
    world.wait_ready("a", 0);
    let first = submit(&world, &[&a, "echo", "7"]);
    let second = submit(&world, &[&a, "echo", "8"]);
    let listed = world.ask(["task", "list", &a]);
    let ids: Vec<_> = listed["tasks"].as_array().unwrap().iter().map(|t| t["task"].clone()).collect();
    assert_eq!(ids, [first.clone(), second.clone()]);
    assert_eq!(listed["tasks"][0]["state"], "queued");
    let page = world.ask(["task", "list", &a, "--limit", "1", "--after", &first]);
    assert_eq!(page["tasks"][0]["task"], second.as_str());
    let text = world.overseer(["task", "list", &a]).exits(0).stdout;
    assert!(text.contains("queued") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let mut waiting = Serving::start(world.command(["task", "attach", &first, "--fleet", &a]));
    world.ask(["fleet", "start", &a]);
    waiting.wait_for("7");
    assert_eq!(waiting.end(), 0);
    world.ask(["task", "attach", &second]);
    assert_eq!(world.ask(["task", "list", &a])["tasks"].as_array().unwrap().len(), 0);
    assert_eq!(world.ask(["task", "list", &a, "--over"])["tasks"].as_array().unwrap().len(), 2);
    // A fleet that is stopped keeps its tasks.
    world.ask(["fleet", "stop", &a]);
    assert_eq!(world.ask(["task", "show", &first])["state"], "done");
    serving.stop();
}

/// Somebody who waits for a task.
fn attach(world: &World, task: &str) -> Serving {
    let mut waiter = Serving::start(world.command(["-v", "task", "attach", task, "--json"]));
    waiter.wait_for("attached");
    waiter
}

#[test]
fn a_key_names_one_task() {
    let world = World::new();
    world.configure(END, &[("a", "")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let first = submit(&world, &[&a, "echo", "1", "--key", "k1"]);
    assert_eq!(submit(&world, &[&a, "echo", "1", "--key", "k1"]), first);
    let other = world.overseer(["submit", &a, "echo", "2", "--key", "k1", "--json"]).exits(2).document();
    assert_eq!(other["code"], "task.key_conflict");
    assert!(other["message"].as_str().unwrap().contains(&first), "{other}");
    assert_eq!(other["help"], "use another key");
    assert_eq!(world.ask(["task", "show", &first])["key"], "k1");
    serving.stop();
}

#[test]
fn a_task_can_be_cancelled_and_who_goes_away_changes_nothing() {
    let world = World::new();
    world.configure(END, &[("a", "")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    let task = submit(&world, &[&a, "wait_cancel", LONG]);
    let mut gone = attach(&world, &task);
    eventually("it runs", || world.ask(["task", "show", &task])["state"] == "running");
    gone.signal(Signal::TERM);
    gone.end();
    assert_eq!(world.ask(["task", "show", &task])["state"], "running");
    world.ask(["task", "cancel", &task]);
    let ended = world.overseer(["task", "attach", &task, "--json"]).exits(3).document();
    assert_eq!(ended["code"], "task.cancelled");
    // Nothing is wrong with doing it again.
    let again = world.overseer(["task", "cancel", &task]).exits(0).stdout;
    assert!(again.contains("was over already: failed"), "{again}");
    serving.stop();
}

#[test]
fn tasks_of_a_fleet_that_does_not_run_are_shown_given_and_cancelled() {
    let world = World::new();
    world.configure(END, &[("a", ""), ("b", "labors = 0")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    let large = format!("\"{}\"", "y".repeat(100_000));
    fs::write(world.path("large"), &large).unwrap();
    let done = submit(&world, &[&a, "echo", "--file", "large"]);
    world.ask(["task", "attach", &done]);
    world.ask(["fleet", "drain", &a]);
    world.wait_ready("a", 0);
    let [first, second] = ["1", "2"].map(|n| submit(&world, &[&a, "echo", n]));
    world.ask(["fleet", "stop", &a]);
    assert_eq!(world.overseer(["task", "attach", &done]).exits(0).stdout.trim(), large);
    assert_eq!(
        world.overseer(["task", "attach", &first, "--json"]).exits(2).document()["code"],
        "fleet.not_running"
    );
    world.overseer(["task", "cancel", &first]).exits(0);
    let ended = world.overseer(["task", "attach", &first, "--json"]).exits(3).document();
    assert_eq!(ended["code"], "task.cancelled");

    // It is taken out of the configuration.
    world.configure(END, &[("b", "labors = 0")]);
    world.ask(["reload"]);
    assert_eq!(world.overseer(["fleet", "show", &a, "--json"]).exits(2).document()["code"], "fleet.unknown");
    let listed = world.ask(["task", "list", &a])["tasks"].clone();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["task"]), (1, &second.clone().into()));
    assert_eq!(world.overseer(["task", "attach", &done, "--fleet", &a]).exits(0).stdout.trim(), large);
    assert_eq!(world.ask(["task", "show", &second])["state"], "queued");
    world.overseer(["task", "cancel", &second]).exits(0);
    assert_eq!(world.ask(["task", "show", &second])["state"], "failed");
    let never = world.fleet("never");
    assert_eq!(
        world.overseer(["task", "list", &never, "--json"]).exits(2).document()["code"],
        "fleet.unknown"
    );
    serving.stop();
}

#[test]
fn every_way_of_a_task_to_fail_has_its_code_and_its_exit() {
    let world = World::new();
    world.configure(END, &[("a", ""), ("none", "labors = 0")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let (a, none) = (world.fleet("a"), world.fleet("none"));
    fs::File::create(world.path("large")).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    let unknown = "t-000000000000000000000000000000ff";
    let long = "k".repeat(129);
    let cases: [(&[&str], i32, &str); 16] = [
        (&["submit", &a, "fail", "\"no bolts\"", "--wait"], 1, "task.answered"),
        (&["submit", &a, "panic", "\"ouch\"", "--wait", "--retry", "never"], 1, "task.answered"),
        (&["submit", &a, "nothing_such", "--wait"], 2, "task.answered"),
        (&["submit", &a, "wait_cancel", LONG, "--run", "100ms", "--wait"], 3, "task.answered"),
        (&["submit", &none, "echo", "--queue", "50ms", "--wait"], 3, "task.queue_deadline"),
        (&["submit", &a, "echo", "--raw", "--file", "large"], 2, "call.too_large"),
        (&["submit", &a, "echo", "not json"], 2, "call.argument"),
        (&["submit", &a, "echo", "--key", &long], 2, "task.bad_key"),
        (&["submit", &a, "echo", "--on", "error"], 2, "task.retry"),
        (&["submit", &a, "echo", "--retry", "often"], 2, "usage"),
        (&["submit", "nobody", "echo"], 2, "fleet.unknown"),
        (&["task", "show", "x"], 2, "id.malformed"),
        (&["task", "show", unknown], 2, "task.unknown"),
        (&["task", "cancel", unknown], 2, "task.unknown"),
        (&["task", "attach", unknown, "--fleet", &a], 2, "task.unknown"),
        (&["task", "list", &a, "--after", "x"], 2, "id.malformed"),
    ];
    for (command, exit, code) in cases {
        let ran = world.overseer(command.iter().copied().chain(["--json"])).exits(exit);
        let error = ran.document();
        assert_eq!(error["code"], code, "{command:?}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let failed = world.overseer(["submit", &a, "fail", "\"no bolts\"", "--retry", "2", "--wait"]).exits(1);
    assert!(failed.stderr.contains("no bolts"), "{}", failed.stderr);
    let task = failed.stderr.lines().next().unwrap().strip_prefix("task ").unwrap().to_owned();
    let shown = world.ask(["task", "show", &task]);
    assert_eq!((&shown["attempts"], &shown["failure"]["code"]), (&3.into(), &"task.answered".into()));
    assert_eq!(shown["past"].as_array().unwrap().len(), 3, "{shown}");
    assert!(world.overseer(["task", "show", &task]).exits(0).stdout.contains("no bolts"));
    serving.stop();
}

#[test]
fn a_task_outlives_the_server_that_took_it() {
    let world = World::new();
    world.configure("", &[("a", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    let slow = submit(&world, &[&a, "wait_file", &world.gate("first")]);
    let mut waiter = attach(&world, &slow);
    eventually("it runs", || world.ask(["task", "show", &slow])["state"] == "running");
    serving.signal(Signal::KILL);
    serving.end();
    assert_eq!(waiter.end(), 3);
    serving = world.serve();
    world.go("first");
    let attached = world.ask(["task", "attach", &slow]);
    // Its labor has lived on and did it once.
    assert_eq!((&attached["task"], &attached["attempts"]), (&slow.into(), &1.into()));

    // The same where the server leaves in good order; who waits keeps it from nothing.
    let other = submit(&world, &[&a, "wait_file", &world.gate("second")]);
    let mut waiter = attach(&world, &other);
    eventually("it runs", || world.ask(["task", "show", &other])["state"] == "running");
    serving.signal(Signal::TERM);
    waiter.wait_for("server.stopping");
    assert_eq!((waiter.end(), serving.end()), (3, 0));
    serving = world.serve();
    world.go("second");
    let attached = world.ask(["task", "attach", &other]);
    assert_eq!((&attached["task"], &attached["attempts"]), (&other.into(), &1.into()));

    // And where its labor is lost with the server: it runs again.
    let lost = submit(&world, &[&a, "wait_file", &world.gate("third")]);
    eventually("it runs", || world.ask(["task", "show", &lost])["state"] == "running");
    serving.signal(Signal::KILL);
    serving.end();
    for pid in world.nodes() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    world.configure(END, &[("a", "labors = 1")]);
    serving = world.serve();
    world.go("third");
    assert_eq!(world.ask(["task", "attach", &lost])["attempts"], 2);
    serving.stop();
}

#[test]
fn the_logs_of_a_task_are_those_of_its_newest_attempt() {
    let world = World::new();
    world.configure(END, &[("a", "")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let task = submit(&world, &[&a, "log", "3000"]);
    world.ask(["task", "attach", &task]);
    eventually("its log is there", || {
        let ran = world.overseer(["logs", &task]);
        ran.code == 0 && ran.stdout == "l".repeat(3000)
    });
    let named = world.overseer(["logs", &task, "--attempt", "1", "--stream", "step"]).exits(0);
    assert_eq!(named.stdout.len(), 3000);
    let silent = submit(&world, &[&a, "echo", "1"]);
    world.ask(["task", "attach", &silent]);
    for args in [&["logs", &silent][..], &["logs", &silent, "--follow"]] {
        let none = world.overseer(args).exits(0);
        assert!(none.stdout.is_empty() && none.stderr.contains("has written nothing"), "{}", none.stderr);
    }
    let named = ["logs", &silent, "--attempt", "1", "--stream", "step", "--follow", "--json"];
    assert_eq!(world.overseer(named).exits(2).document()["code"], "logs.none");
    serving.stop();
}

#[test]
fn the_id_of_a_task_is_not_lost_with_the_output_or_the_connection() {
    let world = World::new();
    world.configure(END, &[("a", "labors = 0")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Ran::of(world.command(["submit", &a, "echo", "1"]).stdout(full).output().unwrap()).exits(3);
    assert!(ran.stderr.contains("task.output"), "{}", ran.stderr);
    let listed = world.ask(["task", "list", &a]);
    let task = listed["tasks"][0]["task"].as_str().unwrap();
    assert!(ran.stderr.contains(task), "{task}: {}", ran.stderr);
    serving.stop();
    // One that takes the request and goes away.
    let socket = world.path("gone.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let gone = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The client's preface; a frame of settings answers it, so that it asks.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
    });
    let socket = socket.to_str().unwrap();
    let ran = world.overseer(["submit", &a, "echo", "1", "--server", socket, "--json"]).exits(3);
    gone.join().unwrap();
    let error = ran.document();
    assert_eq!(error["code"], "server.connection");
    let help = error["help"].as_str().unwrap();
    assert!(help.contains(&format!("overseer task list {a}")) && help.contains("--key"), "{help}");
}

#[test]
fn who_follows_a_task_that_has_not_begun_waits_for_its_log() {
    let world = World::new();
    world.configure(END, &[("a", "labors = 0")]);
    let serving = world.serve();
    let a = world.fleet("a");
    let task = submit(&world, &[&a, "log", "3000"]);
    let none = world.overseer(["logs", &task, "--json"]).exits(2).document();
    assert!(none["help"].as_str().unwrap().contains("--follow"), "{none}");
    let mut follows = world.command(["logs", &task, "--follow"]);
    let follows = follows.stdout(Stdio::piped()).spawn().unwrap();
    world.ask(["fleet", "start", &a, "--labors", "1"]);
    let followed = follows.wait_with_output().unwrap();
    assert!(followed.status.success());
    assert_eq!(followed.stdout, "l".repeat(3000).into_bytes());
    serving.stop();
}
