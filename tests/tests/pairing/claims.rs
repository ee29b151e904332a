//! Claims that must not make anybody a labor.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use overseer::adapter::NodeKey;
use overseer::claims::Claims;
use overseer::store::Transaction;
use overseer::{Cause, ControlPlane, Generation, LaborId, LaborState, Quiet};
use overseer_protocol::proto::{JoinResponse, Versions};
use overseer_protocol::{Claim, Identity, Secret};
use overseer_tests::peer::{self, Keys};
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, labor, within};
use tonic::Code;

use crate::scene::{Scene, refused};

fn token(claim: &Claim) -> Secret<String> {
    match claim {
        Claim::Labor { token, .. } => token.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_claim_makes_the_labor_that_it_names_and_only_for_one_key() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let keys = Keys::generate();
    let joined = peer::join(&document, peer::join_request(&document.claim, &keys)).await.unwrap();
    within("it joins", labor.wait_for(|s| s.state == LaborState::Joining)).await;
    let generation = Generation::FIRST;
    let expected = Identity { fleet: scene.fleet.name().clone(), labor: labor.id(), generation };
    assert_eq!(named_by(joined), expected);
    // One whose answer was lost asks again with the same key, as often as it must.
    for _ in 0..3 {
        let again = peer::join(&document, peer::join_request(&document.claim, &keys)).await;
        assert_eq!(named_by(again.unwrap()), expected);
    }
    let another = peer::join(&document, peer::join_request(&document.claim, &Keys::generate())).await;
    let message = refused(another, Code::Unauthenticated);
    assert!(!message.contains(token(&document.claim).expose()), "{message}");
    scene.wrote(&["WARN", "a claim was refused", "used before"]).await;
    // That of the labor which serves is used up too.
    let used = scene.actors.document(scene.serving.id()).await;
    let again = peer::join(&used, peer::join_request(&used.claim, &Keys::generate())).await;
    refused(again, Code::Unauthenticated);
    scene.fleet.terminate_child(labor.id());
    within("its end", labor.terminated()).await;
    // Its claim goes with it.
    for keys in [keys, Keys::generate()] {
        let after = peer::join(&document, peer::join_request(&document.claim, &keys)).await;
        refused(after, Code::Unauthenticated);
    }
    scene.close().await;
}

/// Whom the certificate in an answer names.
fn named_by(joined: JoinResponse) -> Identity {
    use rustls::pki_types::pem::PemObject;
    let pem = joined.identity.unwrap().certificate;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    overseer::authority::identity_of(&der).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_whose_answer_was_lost_on_its_way_joins_nevertheless() {
    let plane = ControlPlane::embedded().await.unwrap();
    let (store, cut) = (plane.clone(), Arc::new(AtomicBool::new(false)));
    let once = Arc::clone(&cut);
    // The first thing that the Overseer says when the claim is used up is not heard.
    let censor = move |_| -> Pin<Box<dyn Future<Output = bool> + Send>> {
        let (plane, once) = (store.clone(), Arc::clone(&once));
        Box::pin(async move {
            if once.load(Ordering::Relaxed) {
                return false;
            }
            let (claims, _) = plane.store().range("claims/labor/", None, 10).await.unwrap();
            let used = |value: &[u8]| {
                serde_json::from_slice::<serde_json::Value>(value).unwrap()["used_ms"].is_u64()
            };
            claims.iter().any(|entry| used(&entry.value)) && !once.swap(true, Ordering::Relaxed)
        })
    };
    let cables = Cables::censored(labor!(), Box::new(censor));
    let (fleet, labor) = TestFleet::with_one(builder(Quiet, cables).control_plane(&plane)).await;
    assert!(cut.load(Ordering::Relaxed), "nothing was cut");
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    assert_eq!(labor.status().generation, Generation::FIRST);
    fleet.end().await;
    plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_admitted_once_however_many_show_it_at_the_same_time() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let joins: Vec<_> = (0..16)
        .map(|_| {
            let document = document.clone();
            tokio::spawn(async move {
                peer::join(&document, peer::join_request(&document.claim, &Keys::generate())).await
            })
        })
        .collect();
    let mut admitted = 0;
    for join in joins {
        match within("an answer", join).await.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status:?}"),
        }
    }
    assert_eq!(admitted, 1);
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_for_another_labor_another_life_or_of_nobody_is_refused_alike() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let (other, other_document) = scene.played().await;
    let claim = |labor, generation, token| Claim::Labor { labor, generation: Generation(generation), token };
    let mine = || token(&document.claim);
    let cases = [
        ("another labor's token", claim(labor.id(), 1, token(&other_document.claim)), "not the one"),
        ("another labor", claim(other.id(), 1, mine()), "not the one"),
        ("another life", claim(labor.id(), 2, mine()), "another life"),
        ("a stranger", claim(LaborId::new(7, 7), 1, mine()), "no claim of that labor"),
        ("no token", claim(labor.id(), 1, Secret::new(String::new())), "not the one"),
        (
            "a batch that is none",
            Claim::Batch {
                batch: "none".into(),
                token: mine(),
                instance: "i-1".into(),
                proof: Secret::new("none".into()),
            },
            "no claim of that labor or batch",
        ),
    ];
    let mut told = Vec::new();
    for (what, claim, why) in cases {
        let answer = peer::join(&document, peer::join_request(&claim, &Keys::generate())).await;
        told.push(refused(answer, Code::Unauthenticated));
        scene.wrote(&["WARN", "a claim was refused", why]).await;
        assert!(!scene.written.text().contains(mine().expose()), "{what}: a token is in the log");
    }
    // Nobody learns from the answer which labors there are.
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    // None of that used the claims up.
    for document in [document, other_document] {
        let good = peer::join(&document, peer::join_request(&document.claim, &Keys::generate())).await;
        assert!(good.is_ok(), "{good:?}");
    }
    scene.fleet.terminate_child(labor.id());
    scene.fleet.terminate_child(other.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_claim_is_refused() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    // As if the node had taken longer to boot than its claim is good for.
    let key = NodeKey { fleet: scene.fleet.name().clone(), labor: labor.id(), generation: Generation::FIRST };
    let late = Claims::issue(&key, Duration::ZERO, SystemTime::now(), [7; 32]);
    let mut transaction = Transaction::new();
    transaction.operations.push(late.operation);
    scene.plane.store().transact(transaction).await.unwrap();
    let answer = peer::join(&document, peer::join_request(&late.claim, &Keys::generate())).await;
    refused(answer, Code::Unauthenticated);
    scene.wrote(&["WARN", "a claim was refused", "expired"]).await;
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_cannot_be_read_says_so_and_uses_no_claim_up() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let keys = Keys::generate();
    let good = || peer::join_request(&document.claim, &keys);
    let mut garbage = good();
    garbage.claim = b"\xff\x00{".to_vec().into();
    let message = refused(peer::join(&document, garbage).await, Code::InvalidArgument);
    assert!(message.contains("claim cannot be read"), "{message}");
    let mut facts = good();
    facts.facts = b"{}".to_vec().into();
    let message = refused(peer::join(&document, facts).await, Code::InvalidArgument);
    assert!(message.contains("facts cannot be read"), "{message}");
    for (oldest, newest, who) in [(2, 9, "upgrade the Overseer"), (0, 0, "upgrade the labor")] {
        let mut other = good();
        other.versions = Some(Versions { oldest, newest });
        let message = refused(peer::join(&document, other).await, Code::FailedPrecondition);
        assert!(message.contains("protocol versions differ") && message.contains(who), "{message}");
    }
    let mut none = good();
    none.versions = None;
    refused(peer::join(&document, none).await, Code::FailedPrecondition);
    let answer = peer::join(&document, good()).await;
    assert!(answer.is_ok(), "{answer:?}");
    scene.fleet.terminate_child(labor.id());
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_request_that_is_none_is_refused_before_the_claim_is_used_up() {
    let scene = Scene::open().await;
    let (labor, document) = scene.played().await;
    let keys = Keys::generate();
    let mut damaged = keys.request.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for request in [Vec::new(), b"not a request".to_vec(), damaged, vec![0x30; 20_000]] {
        let mut bad = peer::join_request(&document.claim, &keys);
        bad.csr = request.into();
        let message = refused(peer::join(&document, bad).await, Code::InvalidArgument);
        assert!(message.contains("signing request"), "{message}");
    }
    scene.wrote(&["a signing request was refused"]).await;
    let answer = peer::join(&document, peer::join_request(&document.claim, &keys)).await;
    assert!(answer.is_ok(), "{answer:?}");
    scene.fleet.terminate_child(labor.id());
    assert_eq!(within("its end", labor.terminated()).await, Cause::Asked);
    scene.close().await;
}
