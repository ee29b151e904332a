//! Who may ask a server over TCP, and what those are told who may not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::remote::{Remote, flip};
use crate::world::{Serving, World};

const ADMIN: [&str; 4] = ["--role", "admin", "--name", "anna"];

#[test]
fn over_tcp_a_token_is_asked_for_and_its_role_decides() {
    let world = World::new();
    world.configure(&Remote::keys("on_stop = \"end\""), &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let remote = Remote::of(&world);
    let (fleet, other) = (world.fleet("a"), "l-00000000000000000000000000000000");
    let none = remote.refused(None, &["fleet", "list"], 2);
    assert_eq!(none["code"], "server.token");
    let viewer = remote.token(&["--role", "viewer", "--name", "looks"]);
    let operator = remote.token(&["--role", "operator", "--name", "runs"]);
    let admin = remote.token(&ADMIN);
    for token in [&viewer, &operator, &admin] {
        assert_eq!(remote.ask(token, &["fleet", "list"])["fleets"][0]["name"], fleet);
        assert_eq!(remote.ask(token, &["status"])["control"], remote.address());
    }
    let denied = remote.refused(Some(&viewer), &["call", &fleet, "greet", "\"x\""], 2);
    assert_eq!(denied["code"], "access.role");
    let message = denied["message"].as_str().unwrap();
    assert!(
        message.contains("needs the role operator") && message.contains("has the role viewer"),
        "{message}"
    );
    for change in [
        &["fleet", "start", &fleet] as &[&str],
        &["fleet", "stop", &fleet],
        &["fleet", "drain", &fleet, "--labor", other],
        &["fleet", "reconcile", &fleet],
        &["submit", &fleet, "greet", "\"x\""],
        &["task", "cancel", "t-00000000000000000000000000000000"],
        &["reload"],
        &["token", "list"],
        &["audit"],
    ] {
        assert_eq!(remote.refused(Some(&viewer), change, 2)["code"], "access.role", "{change:?}");
    }
    assert_eq!(remote.ask(&operator, &["call", &fleet, "echo", "\"x\""])["result"], "x");
    for change in [&["reload"] as &[&str], &["token", "list"], &["audit"]] {
        assert_eq!(remote.refused(Some(&operator), change, 2)["code"], "access.role", "{change:?}");
    }
    assert_eq!(remote.ask(&admin, &["token", "list"])["tokens"].as_array().unwrap().len(), 3);
    remote.ask(&admin, &["reload"]);
    serving.stop();
}

#[test]
fn a_token_that_is_wrong_expired_revoked_or_replaced_is_refused_with_its_reason() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let serving = world.serve();
    let remote = Remote::of(&world);
    let refused = |token: &str| remote.refused(Some(token), &["status"], 2);
    let good = remote.token(&ADMIN);
    // Garbage is not even sent.
    for garbage in ["hunter2", "ovr_", "Bearer x", &format!("{good}0")] {
        let refused = refused(garbage);
        assert_eq!(refused["code"], "server.token");
        assert!(!refused.to_string().contains(&good));
    }
    let wrong = refused(&flip(&good));
    assert_eq!(wrong["code"], "access.token_wrong");
    assert!(wrong["help"].as_str().unwrap().contains("OVERSEER_TOKEN"), "{wrong}");
    // Of nobody.
    assert_eq!(refused(&format!("ovr_{}_{}", "0".repeat(16), "1".repeat(64)))["code"], "access.token_wrong");
    let brief = remote.token(&["--role", "viewer", "--name", "brief", "--expires", "1ms"]);
    assert_eq!(refused(&brief)["code"], "access.token_expired");
    let id = good[4..20].to_owned();
    let rotated = world.ask(["token", "rotate", &id, "--overlap", "1h"]);
    let newer = rotated["token"].as_str().unwrap().to_owned();
    assert_eq!((&newer[..21], newer == good), (&good[..21], false));
    // Nobody is cut off while the new one is brought around.
    for token in [&good, &newer] {
        remote.ask(token, &["status"]);
    }
    let newest = world.ask(["token", "rotate", &id, "--overlap", "0s"])["token"].as_str().unwrap().to_owned();
    for token in [&good, &newer] {
        assert_eq!(refused(token)["code"], "access.token_wrong");
    }
    remote.ask(&newest, &["status"]);
    world.ask(["token", "revoke", &id]);
    assert_eq!(refused(&newest)["code"], "access.token_revoked");
    assert!(world.ask(["token", "list"])["tokens"].as_array().unwrap().is_empty());
    let all = world.ask(["token", "list", "--all"]);
    let states: Vec<_> = all["tokens"].as_array().unwrap().iter().map(|t| t["state"].clone()).collect();
    assert_eq!(states, ["revoked", "expired"]);
    assert_eq!(world.overseer(["token", "rotate", &id, "--json"]).exits(2).document()["code"], "token.over");
    serving.stop();
}

#[test]
fn what_is_open_under_a_token_ends_with_it() {
    let world = World::new();
    world.configure(&Remote::keys("on_stop = \"end\""), &[("a", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    let remote = Remote::of(&world);
    let fleet = world.fleet("a");
    let admin = remote.token(&ADMIN);
    let (mut follow, mut call) = (
        Serving::start(
            remote.command(Some(&admin), &["fleet", "events", &fleet, "--follow", "--backlog", "1"]),
        ),
        Serving::start(remote.command(Some(&admin), &["call", &fleet, "sleep", "60000", "--json"])),
    );
    follow.wait_for("ready");
    // The call has begun.
    crate::world::eventually("the call is recorded", || {
        let audit = world.overseer(["audit", "--json"]).exits(0).documents();
        audit.iter().any(|entry| entry["method"] == "Calls.Call")
    });
    world.ask(["token", "revoke", &admin[4..20]]);
    follow.wait_for("revoked");
    call.wait_for("access.token_revoked");
    assert_eq!((follow.end(), call.end()), (2, 2));
    serving.stop();
}

#[test]
fn a_token_of_a_fleet_sees_and_does_only_that_fleet() {
    let world = World::new();
    world.configure(&Remote::keys("on_stop = \"end\""), &[("a", "labors = 1"), ("b", "labors = 1")]);
    let serving = world.serve();
    world.wait_ready("a", 1);
    world.wait_ready("b", 1);
    let remote = Remote::of(&world);
    let (a, b) = (world.fleet("a"), world.fleet("b"));
    let of_a = remote.token(&["--role", "admin", "--name", "a", "--fleet", &a]);
    let ask = |args: &[&str]| remote.ask(&of_a, args);
    let refused = |args: &[&str]| remote.refused(Some(&of_a), args, 2);
    let listed = ask(&["fleet", "list"]);
    assert_eq!(listed["fleets"].as_array().unwrap().len(), 1);
    let status = ask(&["status"]);
    assert_eq!((&status["fleets"][0]["name"], &status["data"]), (&a.as_str().into(), &"".into()));
    let task_of = |fleet: &str| {
        let ran = world.ask(["submit", fleet, "echo", "1", "--wait"]);
        ran["task"].as_str().unwrap().to_owned()
    };
    let (ours, theirs) = (task_of(&a), task_of(&b));
    let labor = world.ask(["fleet", "show", &b])["children"][0]["id"].as_str().unwrap().to_owned();
    ask(&["task", "show", &ours]);
    for others in [
        &["fleet", "show", &b] as &[&str],
        &["fleet", "start", &b],
        &["fleet", "stop", &b],
        &["fleet", "drain", &b],
        &["fleet", "history", &b],
        &["fleet", "events", &b],
        &["fleet", "reconcile", &b],
        &["call", &b, "echo", "1"],
        &["submit", &b, "echo", "1"],
        &["task", "list", &b],
        &["task", "show", &theirs, "--fleet", &b],
        &["audit", "--fleet", &b],
    ] {
        let refused = refused(others);
        assert_eq!(refused["code"], "fleet.unknown", "{others:?}: {refused}");
        assert!(!refused["help"].as_str().unwrap().contains(&b), "{refused}");
    }
    for others in [
        &["task", "show", &theirs] as &[&str],
        &["task", "cancel", &theirs],
        &["task", "attach", &theirs],
        &["logs", &theirs],
    ] {
        assert_eq!(refused(others)["code"], "task.unknown", "{others:?}");
    }
    // As if there was no such labor: none of another fleet, whatever its number of lives.
    for labor in [labor.clone(), format!("{labor}/1")] {
        assert_eq!(refused(&["logs", &labor])["code"], "labor.unknown");
    }
    for whole in [&["reload"] as &[&str], &["token", "list"]] {
        assert_eq!(refused(whole)["code"], "access.fleet_only");
    }
    let denied = world.overseer(["audit", "--denied", "--json"]).exits(0).documents();
    let other = denied.iter().find(|entry| entry["method"] == "Fleets.Stop").unwrap();
    assert_eq!(
        (&other["fleet"], &other["outcome"]),
        (&b.as_str().into(), &"fleet.unknown".into()),
        "{other}"
    );
    let audit = remote.ran(Some(&of_a), &["audit", "--json"]).exits(0).documents();
    assert!(!audit.is_empty() && audit.iter().all(|entry| entry["fleet"] == a.as_str()), "{audit:#?}");
    assert_eq!(ask(&["fleet", "start", &a, "--labors", "2"])["started"], 1);
    serving.stop();
}

#[test]
fn the_way_to_a_server_is_checked_before_a_token_is_sent() {
    let world = World::new();
    world.configure(&Remote::keys(""), &[]);
    let serving = world.serve();
    let remote = Remote::of(&world);
    let token = remote.token(&ADMIN);
    let with = |server: &str, ca: Option<&str>, name: &str| {
        let mut command = world.command(["status", "--json", "--server", server]);
        command.env("OVERSEER_TOKEN", &token).env_remove("OVERSEER_SERVER_CA");
        if let Some(ca) = ca {
            command.args(["--server-ca", ca]);
        }
        let refused = crate::ran::Ran::of(command.output().unwrap()).exits(2);
        assert!(!refused.stderr.contains(&token[21..]) && !refused.stdout.contains(&token[21..]));
        assert_eq!(refused.document()["code"], name, "{server} {ca:?}");
        refused.document()
    };
    let plain = remote.address().replace("https", "http");
    with(&plain, Some("server-ca.pem"), "server.address");
    with(&remote.address(), None, "server.ca");
    with(&remote.address(), Some("nothing.pem"), "server.ca");
    // The authority of another server.
    let (other, _) = crate::remote::authority();
    fs::write(world.path("other.pem"), other).unwrap();
    let unknown = with(&remote.address(), Some("other.pem"), "server.connection");
    assert!(unknown["message"].as_str().unwrap().contains("UnknownIssuer"), "{unknown}");
    // The port speaks TLS only, and HTTP/2 in it.
    let answer = crate::remote::plain_http(&remote.address());
    assert!(!answer.contains("200"), "{answer}");
    serving.stop();
}

#[test]
fn a_token_file_must_be_private_and_a_certificate_of_ones_own_is_used() {
    let world = World::new();
    let (ca, leaf) = crate::remote::authority();
    fs::write(world.path("server-ca.pem"), ca).unwrap();
    fs::write(world.path("c.pem"), &leaf.0).unwrap();
    fs::write(world.path("c.key"), &leaf.1).unwrap();
    let keys = "control = \"127.0.0.1:0\"\ncontrol_cert = \"c.pem\"\ncontrol_key = \"c.key\"";
    world.configure(keys, &[]);
    fs::set_permissions(world.path("c.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = |args: &[&str]| {
        let refused = world.overseer(args).exits(2).document();
        assert_eq!(refused["code"], "serve.control_certificate", "{args:?}");
        refused
    };
    let (checked, served) = (["serve", "--check", "--json"], ["serve", "--json"]);
    for args in [&checked[..], &served[..]] {
        let open = refused(args);
        assert!(open["help"].as_str().unwrap().contains("chmod 600"), "{open}");
    }
    fs::set_permissions(world.path("c.key"), fs::Permissions::from_mode(0o600)).unwrap();
    // Not of this certificate.
    fs::write(world.path("c.key"), crate::remote::authority().1.1).unwrap();
    for args in [&checked[..], &served[..]] {
        refused(args);
    }
    fs::remove_file(world.path("c.pem")).unwrap();
    assert!(refused(&checked)["message"].as_str().unwrap().contains("c.pem"));
    fs::write(world.path("c.pem"), &leaf.0).unwrap();
    fs::write(world.path("c.key"), &leaf.1).unwrap();
    world.overseer(checked).exits(0);
    let serving = world.serve();
    let remote = Remote::with_authority(&world, "server-ca.pem");
    let made = world.ask(["token", "new", "--role", "admin", "--name", "anna", "--out", "token"]);
    assert!(made["token"].is_null() && made["file"] == "token", "{made}");
    let token = fs::read_to_string(world.path("token")).unwrap().trim().to_owned();
    let nowhere = ["token", "new", "--role", "viewer", "--name", "x", "--fleet", "nope"];
    let nowhere = world.overseer(nowhere).exits(0).stderr;
    assert!(nowhere.contains("there is no fleet nope") && nowhere.contains("in 90 days"), "{nowhere}");
    let again =
        world.overseer(["token", "new", "--role", "admin", "--name", "x", "--out", "token", "--json"]);
    assert_eq!(again.exits(2).document()["code"], "token.out");
    remote.ran(None, &["status", "--token-file", "token"]).exits(0);
    let status = |mode| {
        fs::set_permissions(world.path("token"), fs::Permissions::from_mode(mode)).unwrap();
        remote.ran(None, &["status", "--token-file", "token", "--json"])
    };
    assert_eq!(status(0o644).exits(2).document()["code"], "server.token");
    status(0o600).exits(0);
    // A name that the certificate does not have.
    let port = remote.address().rsplit(':').next().unwrap().to_owned();
    let localhost = format!("https://localhost:{port}");
    let args = ["status", "--json", "--server", &localhost];
    let wrong_name = remote.ran(Some(&token), &args).exits(2).document();
    assert!(wrong_name["message"].as_str().unwrap().contains("not valid for name"), "{wrong_name}");
    assert!(wrong_name["help"].as_str().unwrap().contains("control_names"), "{wrong_name}");
    // The socket asks for none, whatever is set.
    let mut local = world.command(["status"]);
    assert!(local.env("OVERSEER_TOKEN", "garbage").output().unwrap().status.success());
    serving.stop();
}
