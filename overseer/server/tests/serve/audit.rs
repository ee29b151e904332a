//! Who has asked for what is on record, and nothing secret is.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::remote::{Remote, flip};
use crate::world::{Serving, World, eventually};

fn entries(world: &World, args: &[&str]) -> Vec<Value> {
    let args = ["audit", "--json", "--limit", "1000"].iter().chain(args);
    world.overseer(args).exits(0).documents()
}

/// Waits for an entry of this method and outcome.
fn entry(world: &World, method: &str, outcome: &str) -> Value {
    let mut found = None;
    eventually(&format!("{method} {outcome} is recorded"), || {
        let all = entries(world, &[]);
        found = all.into_iter().rev().find(|entry| entry["method"] == method && entry["outcome"] == outcome);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn every_change_is_recorded_with_who_what_from_where_and_how_it_ended() {
    let world = World::new();
    world.configure(&Remote::keys("on_stop = \"end\""), &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let remote = Remote::of(&world);
    let fleet = world.fleet("a");
    let token = remote.token(&["--role", "admin", "--name", "anna"]);
    let id = token[4..20].to_owned();
    remote.ask(&token, &["fleet", "start", &fleet, "--labors", "2"]);
    world.wait_ready("a", 2);
    let labor = world.ask(["fleet", "show", &fleet])["children"][0]["id"].as_str().unwrap().to_owned();
    remote.ask(&token, &["call", &fleet, "echo", "\"hunter2\""]);
    let task = remote.ask(&token, &["submit", &fleet, "sleep", "60000", "--key", "k-1"])["task"].clone();
    let task = task.as_str().unwrap().to_owned();
    remote.ask(&token, &["task", "cancel", &task]);
    remote.ask(&token, &["fleet", "drain", &fleet, "--labor", &labor]);
    remote.ask(&token, &["fleet", "reconcile", &fleet, "--dry-run"]);
    remote.ask(&token, &["reload"]);
    remote.ask(&token, &["fleet", "stop", &fleet]);
    let second = remote.ask(&token, &["token", "new", "--name", "x", "--role", "viewer", "--fleet", &fleet]);
    let second = second["id"].as_str().unwrap().to_owned();
    remote.ask(&token, &["token", "rotate", &second]);
    remote.ask(&token, &["token", "revoke", &second]);
    let by = format!("token {id} (anna)");
    for (method, of, target, arguments) in [
        ("Fleets.Start", &*fleet, None, "labors=2"),
        ("Tasks.Submit", &fleet, Some(&task), "method=sleep key=k-1 bytes=5"),
        ("Tasks.Cancel", &fleet, Some(&task), ""),
        ("Fleets.Drain", &fleet, Some(&labor), ""),
        ("Fleets.Reconcile", &fleet, None, "dry_run=true force=false"),
        ("Server.Reload", "", None, ""),
        ("Fleets.Stop", &fleet, None, ""),
        ("Tokens.Create", &fleet, Some(&second), "name=x role=viewer seconds=7776000"),
        ("Tokens.Rotate", "", Some(&second), "overlap_s=3600"),
        ("Tokens.Revoke", "", Some(&second), ""),
    ] {
        let entry = entry(&world, method, "ok");
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        assert_eq!((text("who"), text("by")), ("token".into(), by.clone()), "{entry}");
        assert!(text("from").starts_with("127.0.0.1:"), "{entry}");
        assert_eq!((&*text("fleet"), &*text("arguments")), (of, arguments), "{entry}");
        assert_eq!(text("target"), target.cloned().unwrap_or_default(), "{entry}");
        assert!(entry["at_ms"].as_u64().unwrap() > 1_600_000_000_000 && entry["took_ms"].is_u64());
    }
    let call = entry(&world, "Calls.Call", "begun");
    assert_eq!((&call["by"], &call["arguments"]), (&by.as_str().into(), &"method=echo".into()));
    // What failed is there with its code, what came over the socket with its user.
    world.overseer(["token", "revoke", "0000000000000000"]).exits(2);
    let local = entry(&world, "Tokens.Revoke", "token.unknown");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!((&local["who"], &local["by"]), (&"user".into(), &format!("uid {uid}").into()));
    assert!(local["from"].as_str().unwrap().starts_with("socket, process "), "{local}");
    // The server's own doing.
    serving.signal(Signal::HUP);
    eventually("the reload by a signal is recorded", || {
        entries(&world, &[])
            .iter()
            .any(|e| e["by"] == "signal" && e["method"] == "Server.Reload" && e["outcome"] == "ok")
    });
    assert_eq!(entry(&world, "start", "ok")["by"], "start");
    serving.stop();
    let serving = world.serve();
    assert_eq!(entry(&world, "stop", "ok")["by"], "signal");
    assert!(entries(&world, &["--fleet", &fleet]).iter().all(|entry| entry["fleet"] == fleet.as_str()));
    assert!(entries(&world, &["--since", "0s"]).is_empty());
    let text = world.overseer(["audit"]).exits(0).stdout;
    assert!(text.contains("Fleets.Stop") && text.contains(&by), "{text}");
    serving.stop();
    let report = world.ask(["store", "check", "--data", "data"]);
    assert_eq!(report["counts"]["tokens"], 2, "{report}");
    assert!(report["counts"]["audit entries"].as_u64().unwrap() > 15, "{report}");
}

#[test]
fn what_was_asked_for_is_on_record_though_the_server_is_killed_before_it_is_done() {
    let world = World::new();
    world.configure("", &[("a", "labors = 1")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let fleet = world.fleet("a");
    world.ask(["submit", &fleet, "sleep", "60000"]);
    eventually("the task runs", || world.ask(["task", "list", &fleet])["tasks"][0]["state"] == "running");
    let mut follow = Serving::start(world.command(["audit", "--follow", "--json"]));
    follow.wait_for("Tasks.Submit");
    // It waits for the task, which takes longer than the server lives.
    let _stopping = Serving::start(world.command(["fleet", "stop", &fleet]));
    follow.wait_for("Fleets.Stop");
    serving.signal(Signal::KILL);
    serving.end();
    let serving = world.serve();
    let stop = entries(&world, &[]).into_iter().find(|entry| entry["method"] == "Fleets.Stop").unwrap();
    assert!(stop["outcome"].is_null() || stop["outcome"] == "ok", "{stop}");
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    world.ask(["reload"]);
    serving.stop();
}

#[test]
fn no_secret_is_in_a_log_an_answer_the_store_or_an_export() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let mut command = world.command(["serve"]);
    command.env("RUST_LOG", "trace");
    let mut serving = Serving::start(command);
    serving.wait_for("is ready");
    let remote = Remote::of(&world);
    let first = remote.token(&["--role", "admin", "--name", "anna"]);
    let id = &first[4..20];
    let second = remote.ask(&first, &["token", "rotate", id])["token"].as_str().unwrap().to_owned();
    let wrong = flip(&second);
    remote.refused(Some(&wrong), &["status"], 2);
    let mut said = String::new();
    for args in [&["status", "-vv"] as &[&str], &["token", "list"], &["audit"], &["fleet", "list", "-vv"]] {
        let ran = remote.ran(Some(&second), args).exits(0);
        said.extend([ran.stdout, ran.stderr]);
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 0);
    said.push_str(&serving.everything());
    assert!(said.contains("anna") && said.contains("TRACE"), "it was looked at the right place");
    world.ask(["store", "export", "all.export", "--data", "data"]);
    let mut files = vec![world.path("all.export")];
    all_files(&world.path("data"), &mut files);
    assert!(files.iter().any(|file| file.ends_with("store.redb")));
    let secrets = [&first, &second, &wrong].map(|token| token[21..].to_owned());
    for secret in &secrets {
        assert!(!said.contains(secret.as_str()));
        let bytes: Vec<u8> =
            (0..32).map(|n| u8::from_str_radix(&secret[2 * n..2 * n + 2], 16).unwrap()).collect();
        for file in &files {
            let content = fs::read(file).unwrap();
            for part in [secret.as_bytes(), &bytes] {
                let found = content.windows(part.len()).any(|window| window == part);
                assert!(!found, "{} has a secret", file.display());
            }
        }
    }
}

fn all_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            all_files(&entry, files);
        } else if entry.is_file() {
            files.push(entry);
        }
    }
}
