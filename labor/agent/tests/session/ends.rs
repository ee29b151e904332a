use std::time::Duration;

use overseer_labor::Exit;
use overseer_protocol::proto::{self, order, report};
use overseer_protocol::{Cause, OnLeaseLost, Secret};
use rustix::process::Signal;
use tonic::Status;

use crate::node::Node;
use crate::overseer::{Overseer, labor};

fn is(exit: Exit) -> i32 {
    i32::from(exit.code())
}

#[tokio::test]
async fn a_node_ends_at_once_when_its_owner_is_gone() {
    let mut overseer = Overseer::on_tcp().await;
    let mut node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    drop(node.pipe.take());
    let spool = node.spool();
    let (code, _directory) = node.ended().await;
    assert_eq!(code, is(Exit::OwnerGone));
    assert!(!spool.exists(), "it cleans up after itself");
}

#[tokio::test]
async fn a_node_whose_owner_is_gone_leaves_no_process_also_none_without_a_mark() {
    let (mut overseer, mut node) = crate::load::ready(crate::load::probe()).await;
    overseer.order(crate::calls::call(1, "hidden", b""));
    let outcome = crate::calls::result(&mut overseer, 1).await;
    let proto::call_result::Outcome::Ok(answer) = outcome else { panic!("{outcome:?}") };
    let stat = format!("/proc/{}/stat", String::from_utf8_lossy(&answer));
    let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
    assert!(runs());
    drop(node.pipe.take());
    assert_eq!(node.ended().await.0, is(Exit::OwnerGone));
    assert!(!runs(), "it was left");
}

#[tokio::test]
async fn a_node_ends_when_nobody_answers_for_as_long_as_the_lease() {
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| (s.lease_ms, s.answers_heartbeats) = (400, false));
    let node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.script(|s| s.attach = Some(Status::unavailable("it is being mended")));
    assert_eq!(node.ended().await.0, is(Exit::LeaseLost));
}

#[tokio::test]
async fn a_node_that_never_reaches_anyone_ends_with_its_lease() {
    let overseer = Overseer::on_tcp().await;
    let mut bootstrap = overseer.bootstrap();
    drop(overseer);
    bootstrap.lease_ms = 300;
    assert_eq!(Node::start(&bootstrap).ended().await.0, is(Exit::LeaseLost));
}

#[tokio::test]
async fn a_host_with_workloads_outlives_its_lease_and_comes_back() {
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| (s.lease_ms, s.answers_heartbeats) = (200, false));
    let mut bootstrap = overseer.bootstrap();
    bootstrap.on_lease_lost = OnLeaseLost::Keep;
    let _node = Node::start(&bootstrap);
    overseer.attached().await;
    overseer.script(|s| s.attach = Some(Status::unavailable("it is being mended")));
    // Much longer than the lease.
    tokio::time::timeout(Duration::from_secs(1), overseer.attached()).await.unwrap_err();
    overseer.script(|s| (s.attach, s.answers_heartbeats) = (None, true));
    overseer.attached().await;
    overseer.beats().await;
}

#[tokio::test]
async fn a_refused_node_ends_with_a_code_that_says_so() {
    let overseer = Overseer::on_tcp().await;
    let mut bootstrap = overseer.bootstrap();
    bootstrap.claim = overseer_protocol::Claim::Labor {
        labor: labor(),
        generation: overseer_protocol::Generation(3),
        token: Secret::new("wrong".into()),
    };
    assert_eq!(Node::start(&bootstrap).ended().await.0, is(Exit::Refused));

    overseer.script(|s| s.join = Some(Status::failed_precondition("upgrade the labor")));
    assert_eq!(Node::start(&overseer.bootstrap()).ended().await.0, is(Exit::Refused));

    overseer.script(|s| (s.join, s.attach) = (None, Some(Status::permission_denied("older generation"))));
    assert_eq!(Node::start(&overseer.bootstrap()).ended().await.0, is(Exit::Refused));

    overseer.script(|s| (s.attach, s.version) = (None, 99));
    assert_eq!(Node::start(&overseer.bootstrap()).ended().await.0, is(Exit::Refused));
}

#[tokio::test]
async fn a_node_says_goodbye_when_it_is_shut_down() {
    let mut overseer = Overseer::on_tcp().await;
    let node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.order(order::Kind::Shutdown(proto::Shutdown { cause: Cause::Idle.to_bytes().into() }));
    let cause = overseer
        .report(|kind| match kind {
            report::Kind::Goodbye(goodbye) => Some(Cause::from_bytes(&goodbye.cause)),
            _ => None,
        })
        .await;
    assert_eq!(cause, Cause::Idle);
    assert_eq!(node.ended().await.0, is(Exit::Asked));
}

#[tokio::test]
async fn a_terminated_node_gives_notice_and_leaves_in_order() {
    let mut overseer = Overseer::on_tcp().await;
    let node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.beats().await;
    node.signal(Signal::TERM);
    let mut said = Vec::new();
    overseer
        .report(|kind| {
            match kind {
                report::Kind::Notice(_) => said.push("notice"),
                report::Kind::Drained(_) => said.push("drained"),
                report::Kind::Goodbye(_) => said.push("goodbye"),
                _ => {}
            }
            (said.last() == Some(&"goodbye")).then_some(())
        })
        .await;
    assert_eq!(said, ["notice", "drained", "goodbye"]);
    assert_eq!(node.ended().await.0, is(Exit::Asked));
}

#[tokio::test]
async fn a_bad_document_ends_before_anything_is_dialled() {
    use std::process::{Command, Stdio};
    let run = |args: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_labor"));
        command.args(args).stdin(Stdio::null()).env_remove("OVERSEER_BOOTSTRAP");
        if let Some(text) = variable {
            command.env("OVERSEER_BOOTSTRAP", text);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&[], None);
    assert_eq!(code, is(Exit::Usage));
    assert!(said.contains("--bootstrap"), "{said}");
    for (args, variable) in
        [(&["--stdin"][..], None), (&["--bootstrap", "/nonexistent"], None), (&[], Some("{}"))]
    {
        let (code, said) = run(args, variable);
        assert_eq!(code, is(Exit::Bootstrap), "{said}");
        assert!(said.starts_with("labor: the bootstrap document"), "{said}");
    }
}

#[tokio::test]
async fn a_document_may_come_in_a_file_or_in_the_environment() {
    for in_file in [true, false] {
        let mut overseer = Overseer::on_tcp().await;
        let mut document = overseer.bootstrap();
        document.owner_pipe = false;
        let node = Node::start_from(&document, in_file);
        overseer.attached().await;
        node.signal(Signal::TERM);
        assert_eq!(node.ended().await.0, is(Exit::Asked), "in a file: {in_file}");
    }
}

#[test]
fn how_it_ended_is_a_document_too() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_labor"))
        .args(["--json", "--bootstrap", "/nonexistent"])
        .output()
        .unwrap();
    let ended: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ended["exit"], output.status.code().unwrap());
    assert_eq!((&ended["event"], &ended["code"]), (&"ended".into(), &"bootstrap.io".into()));
    assert!(ended["message"].as_str().unwrap().contains("/nonexistent"));
}

#[tokio::test]
async fn a_second_signal_gives_up_what_runs() {
    let (mut overseer, node) = crate::load::ready(crate::load::probe()).await;
    overseer.order(crate::calls::call(1, "wait_cancel", b"60000"));
    overseer
        .report(|kind| match kind {
            report::Kind::Heartbeat(beat) if beat.running == 1 => Some(()),
            _ => None,
        })
        .await;
    node.signal(Signal::TERM);
    overseer.report(|kind| matches!(kind, report::Kind::Notice(_)).then_some(())).await;
    node.signal(Signal::TERM);
    assert_eq!(node.ended().await.0, is(Exit::Interrupted));
}

#[tokio::test]
async fn no_log_line_shows_the_claim_or_a_key_however_much_is_logged() {
    let mut overseer = Overseer::on_tcp().await;
    let (node, log) = Node::start_logging(&overseer.bootstrap(), "trace");
    overseer.attached().await;
    overseer.beats().await;
    node.signal(Signal::TERM);
    let (_, _directory) = node.ended().await;
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert!(said.len() > 10_000, "nothing was logged");
    assert!(!said.contains(crate::overseer::TOKEN));
    assert!(!said.contains("PRIVATE KEY"));
}
