use std::time::Duration;

use overseer_protocol::proto::{self, order, report};
use overseer_protocol::{Endpoint, Facts};

use crate::node::Node;
use crate::overseer::{Overseer, Seen};

#[tokio::test]
async fn a_node_joins_with_its_claim_and_attaches_as_somebody() {
    let mut overseer = Overseer::on_tcp().await;
    let node = Node::start(&overseer.bootstrap());
    let join = overseer
        .until(|seen| match seen {
            Seen::Joined(join) => Some(join),
            _ => None,
        })
        .await;
    let facts: Facts = serde_json::from_slice(&join.facts).unwrap();
    assert_eq!(facts.pid, node.pid());
    assert_eq!(facts.target, overseer_release::HOST_TARGET);
    let (_, hello) = overseer.attached().await;
    assert_eq!((hello.release.as_str(), hello.ready), ("", false));
    let beats = [1, 2, 3];
    for seq in beats {
        let beat = overseer
            .report(|kind| match kind {
                report::Kind::Heartbeat(beat) => Some(beat),
                _ => None,
            })
            .await;
        assert_eq!(beat.seq, seq);
    }
}

#[tokio::test]
async fn a_node_on_the_same_machine_comes_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let mut overseer = Overseer::on_unix(directory.path()).await;
    let mut bootstrap = overseer.bootstrap();
    // One that nobody listens on comes first.
    bootstrap.endpoints.insert(0, Endpoint::Unix(directory.path().join("nobody.sock")));
    let _node = Node::start(&bootstrap);
    overseer.attached().await;
}

#[tokio::test]
async fn a_lost_session_is_dialled_again_without_another_join() {
    let mut overseer = Overseer::on_tcp().await;
    let _node = Node::start(&overseer.bootstrap());
    for session in 1..=3 {
        let (number, _) = overseer.attached().await;
        assert_eq!(number, session);
        overseer.drop_session();
    }
    overseer
        .until(|seen| match seen {
            Seen::Joined(_) => panic!("a second join"),
            Seen::Attached(4, _) => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_session_that_has_gone_silent_is_dialled_again_before_the_lease_is_lost() {
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| (s.lease_ms, s.answers_heartbeats) = (3000, false));
    let _node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.attached().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_the_session_moves_to_it() {
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| s.life = 3);
    let _node = Node::start(&overseer.bootstrap());
    overseer.attached().await;
    overseer.until(|seen| matches!(seen, Seen::Renewed).then_some(())).await;
    // Nobody sees it go away meanwhile.
    overseer
        .until(|seen| match seen {
            Seen::Detached => panic!("the session ended before the next was up"),
            Seen::Attached(2, _) => Some(()),
            _ => None,
        })
        .await;
    overseer.script(|s| s.life = 3600);
    overseer.order(order::Kind::Renewal(proto::Renewal {}));
    overseer.until(|seen| matches!(seen, Seen::Renewed).then_some(())).await;
    overseer.attached().await;
}

#[tokio::test]
async fn a_busy_overseer_is_asked_again() {
    let mut overseer = Overseer::on_tcp().await;
    overseer.script(|s| s.join = Some(tonic::Status::resource_exhausted("later")));
    let _node = Node::start(&overseer.bootstrap());
    tokio::time::timeout(Duration::from_millis(300), overseer.attached()).await.unwrap_err();
    overseer.script(|s| s.join = None);
    overseer.attached().await;
}
