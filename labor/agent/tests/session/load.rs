use std::path::PathBuf;

use overseer_protocol::Cause;
use overseer_protocol::proto::{self, order, report};
use overseer_release::{Package, ReleaseBuilder, SigningKey};
use tempfile::TempDir;

use crate::node::Node;
use crate::overseer::{Overseer, Seen};

/// The library that cargo has built beside this test.
pub fn library() -> PathBuf {
    let library = std::env::current_exe().unwrap().with_file_name("libprobe_plugin.so");
    assert!(library.is_file(), "{} is not there; run the tests by cargo", library.display());
    library
}

pub fn probe() -> ReleaseBuilder {
    ReleaseBuilder::plugin("probe", "1.2.3", library())
}

pub fn package(builder: ReleaseBuilder) -> (Package, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let packed = builder.write(directory.path()).unwrap();
    (Package::open(&packed.path).unwrap(), directory)
}

pub fn load(release: &str, unsigned: &str) -> order::Kind {
    order::Kind::Load(proto::Load {
        release: release.to_owned(),
        unsigned: unsigned.to_owned(),
        ..proto::Load::default()
    })
}

/// A node with the probe up, on an Overseer that has it.
pub async fn ready(builder: ReleaseBuilder) -> (Overseer, Node) {
    let mut overseer = Overseer::on_tcp().await;
    let (package, _directory) = package(builder);
    let release = package.id().to_string();
    overseer.script(|s| s.package = Some(package));
    let node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.order(load(&release, "allow"));
    is_ready(&mut overseer).await;
    (overseer, node)
}

pub async fn is_ready(overseer: &mut Overseer) -> proto::Ready {
    overseer
        .report(|kind| match kind {
            report::Kind::Ready(ready) => Some(ready),
            report::Kind::LoadFailed(failed) => panic!("{}", Cause::from_bytes(&failed.cause)),
            _ => None,
        })
        .await
}

async fn load_failed(overseer: &mut Overseer) -> String {
    overseer
        .report(|kind| match kind {
            report::Kind::LoadFailed(failed) => Some(Cause::from_bytes(&failed.cause).to_string()),
            report::Kind::Ready(_) => panic!("it is up"),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_signed_release_is_fetched_once_and_then_taken_from_the_cache() {
    let key = SigningKey::ephemeral().unwrap();
    let (package, _directory) = package(probe().sign(&key));
    let release = package.id().to_string();
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| s.package = Some(package));
    let mut bootstrap = overseer.bootstrap();
    bootstrap.release_keys = vec![key.public().to_text()];
    let node = Node::start(&bootstrap);
    overseer.attached().await;
    overseer.order(load(&release, ""));
    let loaded = overseer
        .report(|kind| match kind {
            report::Kind::Loaded(loaded) => Some(loaded),
            _ => None,
        })
        .await;
    assert!(loaded.fetched > 100_000 && loaded.micros > 0);
    let ready = is_ready(&mut overseer).await;
    assert_eq!(
        (ready.name.as_str(), ready.release_version.as_str(), ready.concurrency),
        ("probe", "1.2.3", 4)
    );

    // Again, by the same agent: it is up already.
    overseer.order(load(&release, ""));
    is_ready(&mut overseer).await;
    // A session that is resumed says so.
    overseer.drop_session();
    let (_, hello) = overseer.attached().await;
    assert_eq!((hello.release, hello.ready, hello.concurrency), (release.clone(), true, 4));

    // By the next agent with that directory.
    overseer.beats().await;
    node.signal(rustix::process::Signal::TERM);
    let (_, directory) = node.ended().await;
    let _node = Node::start_in(&bootstrap, directory);
    overseer.attached().await;
    overseer.order(load(&release, ""));
    let loaded = overseer
        .until(|seen| match seen {
            Seen::Chunks(_) | Seen::Index => panic!("fetched again"),
            Seen::Reported(_, report::Kind::Loaded(loaded)) => Some(loaded),
            _ => None,
        })
        .await;
    assert_eq!(loaded.fetched, 0);
    is_ready(&mut overseer).await;
}

#[tokio::test]
async fn a_release_that_nobody_trusted_has_signed_is_refused_before_a_byte_of_it_travels() {
    let (package, _directory) = package(probe().sign(&SigningKey::ephemeral().unwrap()));
    let release = package.id().to_string();
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| s.package = Some(package));
    let mut bootstrap = overseer.bootstrap();
    bootstrap.release_keys = vec![SigningKey::ephemeral().unwrap().public().to_text()];
    let _node = Node::start(&bootstrap);
    overseer.attached().await;
    overseer.order(load(&release, "require"));
    let said = overseer
        .until(|seen| match seen {
            Seen::Chunks(_) => panic!("chunks of a release that is not trusted"),
            Seen::Reported(_, report::Kind::LoadFailed(failed)) => Some(Cause::from_bytes(&failed.cause)),
            _ => None,
        })
        .await;
    assert!(said.to_string().contains("release.signature_unknown"), "{said}");
    // The choice is the fleet's, and a refusal is not the end of the node.
    overseer.order(load(&release, "allow"));
    is_ready(&mut overseer).await;
}

#[tokio::test]
async fn bad_releases_and_orders_are_refused_by_name() {
    let (package, _directory) = package(probe());
    let release = package.id().to_string();
    let mut overseer = Overseer::on_tcp().await;
    let node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.order(load("short", "allow"));
    assert!(load_failed(&mut overseer).await.contains("64 hexadecimal digits"));
    overseer.order(load(&release, "perhaps"));
    assert!(load_failed(&mut overseer).await.contains("require or allow"));
    overseer.order(load(&release, "allow"));
    assert!(load_failed(&mut overseer).await.contains("no such release"));
    overseer.script(|s| (s.package, s.damages_chunks) = (Some(package), true));
    overseer.order(load(&release, "allow"));
    let said = load_failed(&mut overseer).await;
    assert!(said.contains("fetch it again"), "{said}");
    overseer.order(load(&"0".repeat(64), "allow"));
    assert!(load_failed(&mut overseer).await.contains("sent the index of"));
    let left: Vec<_> = std::fs::read_dir(node.directory.path().join("releases")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    overseer.script(|s| s.damages_chunks = false);
    overseer.order(load(&release, "allow"));
    is_ready(&mut overseer).await;
}

#[tokio::test]
async fn a_plugin_that_does_not_start_fails_the_load_and_its_last_words_are_kept() {
    let (package, _directory) = package(probe().environment("PROBE_START", "fail"));
    let release = package.id().to_string();
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| s.package = Some(package));
    let _node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.order(load(&release, "allow"));
    let said = load_failed(&mut overseer).await;
    assert!(said.contains("order some"), "{said}");
}

#[tokio::test]
async fn a_host_that_crashes_is_restarted_and_a_crash_loop_is_given_up() {
    let (mut overseer, _node) = ready(probe()).await;
    let mut events = Vec::new();
    for call in 1..=6 {
        overseer.order(crate::calls::call(call, "abort", b""));
        let (mut exited, mut answered, mut gave_up) = (false, false, false);
        overseer
            .report(|kind| {
                match kind {
                    report::Kind::HostEvent(event) => {
                        if event.what == "exited" {
                            exited = true;
                            assert_eq!(Cause::from_bytes(&event.cause), Cause::Signal { signal: 6 });
                        }
                        gave_up = event.what == "gave_up";
                        events.push(event.what);
                    }
                    report::Kind::Result(result) => {
                        assert_eq!(result.id, call);
                        answered = true;
                    }
                    report::Kind::Ready(_) => return Some(()),
                    _ => {}
                }
                (gave_up && exited && answered).then_some(())
            })
            .await;
    }
    let count = |what: &str| events.iter().filter(|event| event.as_str() == what).count();
    assert_eq!((count("exited"), count("restarting"), count("started")), (6, 5, 5));
    assert_eq!(count("gave_up"), 1, "{events:?}");
    overseer.order(crate::calls::call(7, "echo", b""));
    let (code, _) = crate::calls::failure(&mut overseer, 7).await;
    assert_eq!(code, overseer_protocol::CallErrorCode::NotReady);
}

#[tokio::test]
async fn a_release_that_fails_leaves_the_one_before_it_running_and_restartable() {
    let (mut overseer, _node) = ready(probe()).await;
    let (bad, _directory) = package(probe().environment("PROBE_START", "fail"));
    let release = bad.id().to_string();
    overseer.order(load(&"0".repeat(64), "allow"));
    load_failed(&mut overseer).await;
    overseer.script(|s| s.package = Some(bad));
    overseer.order(load(&release, "allow"));
    load_failed(&mut overseer).await;
    overseer.order(crate::calls::call(1, "echo", b"on"));
    assert!(matches!(crate::calls::result(&mut overseer, 1).await, proto::call_result::Outcome::Ok(_)));
    overseer.order(crate::calls::call(2, "abort", b""));
    is_ready(&mut overseer).await;
    overseer.order(crate::calls::call(3, "echo", b"on"));
    assert!(matches!(crate::calls::result(&mut overseer, 3).await, proto::call_result::Outcome::Ok(_)));
}

#[tokio::test]
async fn a_new_release_takes_over_when_it_is_up() {
    let (mut overseer, _node) = ready(probe()).await;
    let (newer, _directory) = package(ReleaseBuilder::plugin("probe", "2.0.0", library()));
    let release = newer.id().to_string();
    overseer.script(|s| s.package = Some(newer));
    overseer.order(load(&release, "allow"));
    assert_eq!(is_ready(&mut overseer).await.release_version, "2.0.0");
    overseer.order(crate::calls::call(1, "echo", b"on"));
    assert!(matches!(crate::calls::result(&mut overseer, 1).await, proto::call_result::Outcome::Ok(_)));
}
