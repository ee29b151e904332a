use super::*;
use crate::store::{Durability, RedbStore};

const TTL: Duration = Duration::from_secs(300);

struct Rig {
    store: Arc<RedbStore>,
    claims: Claims,
    now: SystemTime,
    _directory: tempfile::TempDir,
}

/// The provider knows instances whose proof is their name backwards.
struct Backwards;

#[async_trait]
impl ProofOfInstance for Backwards {
    async fn verify(&self, _: &FleetName, instance: &str, proof: &Secret<String>) -> Result<(), String> {
        let right = instance.chars().rev().eq(proof.expose().chars());
        if right { Ok(()) } else { Err("the provider does not know it".to_owned()) }
    }
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Arc::new(RedbStore::open(path, Durability::Ephemeral).unwrap());
    let claims = Claims::new(store.clone()).with_proof(Arc::new(Backwards));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Rig { store, claims, now, _directory: directory }
}

fn node(generation: u32) -> NodeKey {
    NodeKey { fleet: "farm".parse().unwrap(), labor: LaborId::new(1, 2), generation: Generation(generation) }
}

impl Rig {
    async fn commit(&self, operation: Operation) {
        let transaction = Transaction { compares: vec![], operations: vec![operation] };
        self.store.transact(transaction).await.unwrap();
    }

    async fn issue(&self, generation: u32, random: u8) -> Claim {
        let new = Claims::issue(&node(generation), TTL, self.now, [random; 32]);
        self.commit(new.operation).await;
        new.claim
    }

    async fn code(&self, claim: &Claim, now: SystemTime) -> &'static str {
        self.code_for(claim, KeyPrint::of_some_key(), now).await
    }

    async fn code_for(&self, claim: &Claim, key: KeyPrint, now: SystemTime) -> &'static str {
        match self.claims.admit(claim, key, now).await {
            Ok(_) => "admitted",
            Err(refused) => refused.code(),
        }
    }

    async fn batch(&self, name: &str, count: u32) -> Secret<String> {
        let labors = (0..count).map(|n| (LaborId::new(1, n.into()), Generation::FIRST)).collect();
        let intent = BatchIntent { batch: name.to_owned(), fleet: "farm".parse().unwrap(), labors };
        let new = Claims::issue_batch(&intent, TTL, self.now, [9; 32]).unwrap();
        self.commit(new.operation).await;
        new.token
    }
}

fn of_instance(batch: &str, token: &Secret<String>, instance: &str) -> Claim {
    Claim::Batch {
        batch: batch.to_owned(),
        token: token.clone(),
        instance: instance.to_owned(),
        proof: Secret::new(instance.chars().rev().collect()),
    }
}

#[tokio::test]
async fn a_claim_is_admitted_once() {
    let rig = rig();
    let claim = rig.issue(1, 7).await;
    let identity = rig.claims.admit(&claim, KeyPrint::of_some_key(), rig.now).await.unwrap();
    assert_eq!(identity.to_uri(), format!("overseer://farm/{}/1", node(1).labor));
    assert_eq!(rig.code(&claim, rig.now).await, "claim_used");
    let kept = rig.store.range("", None, 10).await.unwrap().0;
    let text = format!("{kept:?}");
    assert!(!text.contains(&"07".repeat(32)), "no token is stored");
}

#[tokio::test]
async fn the_same_key_is_admitted_again_as_the_same_labor_as_long_as_the_claim_is_valid() {
    let rig = rig();
    let (ours, last) = (KeyPrint::of_some_key(), rig.now + TTL - Duration::from_millis(1));
    let first = rig.issue(1, 7).await;
    let identity = rig.claims.admit(&first, ours, rig.now).await.unwrap();
    assert_eq!(rig.claims.admit(&first, ours, last).await.unwrap(), identity);
    assert_eq!(rig.code_for(&first, KeyPrint::of_some_key(), last).await, "claim_used");
    assert_eq!(rig.code_for(&first, ours, rig.now + TTL).await, "claim_late");
    // The next life has a claim of its own, which that key may use as any other may.
    let second = rig.issue(2, 8).await;
    assert_eq!(rig.code_for(&first, ours, rig.now).await, "claim_wrong_labor");
    assert_eq!(rig.code_for(&second, KeyPrint::of_some_key(), rig.now).await, "admitted");
    assert_eq!(rig.code_for(&second, ours, rig.now).await, "claim_used");

    let token = rig.batch("b", 3).await;
    let claim = of_instance("b", &token, "i-1");
    let identity = rig.claims.admit(&claim, ours, rig.now).await.unwrap();
    assert_eq!(rig.claims.admit(&claim, ours, last).await.unwrap(), identity);
    assert_eq!(rig.code_for(&claim, KeyPrint::of_some_key(), last).await, "claim_used");
    assert_eq!(rig.code_for(&claim, ours, rig.now + TTL).await, "claim_late");
    // It has taken one place only.
    for other in ["i-2", "i-3"] {
        assert_eq!(rig.code(&of_instance("b", &token, other), rig.now).await, "admitted");
    }
    assert_eq!(rig.code(&of_instance("b", &token, "i-4"), rig.now).await, "claim_batch_full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tries_with_one_key_at_once_are_all_admitted_as_one_labor() {
    let rig = rig();
    let (claim, key) = (rig.issue(1, 7).await, KeyPrint::of_some_key());
    let tries: Vec<_> = (0..8)
        .map(|_| {
            let (claims, claim, now) = (rig.claims.clone(), claim.clone(), rig.now);
            tokio::spawn(async move { claims.admit(&claim, key, now).await })
        })
        .collect();
    for each in tries {
        assert_eq!(each.await.unwrap().unwrap().labor, node(1).labor);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_tries_at_once_one_is_admitted() {
    let rig = rig();
    let claim = rig.issue(1, 7).await;
    let tries: Vec<_> = (0..16)
        .map(|_| {
            let (claims, claim, now) = (rig.claims.clone(), claim.clone(), rig.now);
            tokio::spawn(async move {
                claims.admit(&claim, KeyPrint::of_some_key(), now).await.map_err(|refused| refused.code())
            })
        })
        .collect();
    let mut admitted = 0;
    for each in tries {
        match each.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(code) => assert_eq!(code, "claim_used"),
        }
    }
    assert_eq!(admitted, 1);
}

#[tokio::test]
async fn refusals_are_told_apart_in_the_log_only() {
    let rig = rig();
    let first = rig.issue(1, 7).await;
    let with = |labor: LaborId, generation: u32, token: &str| Claim::Labor {
        labor,
        generation: Generation(generation),
        token: Secret::new(token.to_owned()),
    };
    let (labor, right) = (node(1).labor, "07".repeat(32));
    let stranger = LaborId::new(3, 3);
    let cases = [
        (with(stranger, 1, &right), rig.now, "claim_unknown"),
        (with(labor, 2, &right), rig.now, "claim_wrong_labor"),
        (with(labor, 1, &"08".repeat(32)), rig.now, "claim_wrong_token"),
        (with(labor, 1, ""), rig.now, "claim_wrong_token"),
        (with(labor, 1, &right[..63]), rig.now, "claim_wrong_token"),
        (with(labor, 1, &right.repeat(2)), rig.now, "claim_wrong_token"),
        (first.clone(), rig.now + TTL, "claim_late"),
    ];
    let mut told = std::collections::BTreeSet::new();
    for (claim, now, code) in cases {
        let refused = rig.claims.admit(&claim, KeyPrint::of_some_key(), now).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(!refused.is_retryable());
        assert!(!refused.to_string().contains(&right));
        told.insert(refused.wire_message());
    }
    assert_eq!(told.len(), 1, "a stranger learns nothing");
    // None of them has used it up; it holds to its last moment.
    assert_eq!(rig.code(&first, rig.now + TTL - Duration::from_millis(1)).await, "admitted");
}

#[tokio::test]
async fn a_new_life_ends_the_claim_of_the_last_one() {
    let rig = rig();
    let first = rig.issue(1, 7).await;
    let second = rig.issue(2, 8).await;
    assert_eq!(rig.code(&first, rig.now).await, "claim_wrong_labor");
    assert_eq!(rig.code(&second, rig.now).await, "admitted");
    rig.commit(Claims::forget(node(1).labor)).await;
    assert_eq!(rig.code(&second, rig.now).await, "claim_unknown");
    rig.store.transact(Transaction::new().put(labor_key(node(1).labor), "{")).await.unwrap();
    assert_eq!(rig.code(&second, rig.now).await, "claim_unreadable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_admits_each_instance_once_and_each_as_another_labor() {
    let rig = rig();
    let token = rig.batch("b-1", 150).await;
    let tries: Vec<_> = (0..160)
        .chain(0..160)
        .map(|n| {
            let (claims, now) = (rig.claims.clone(), rig.now);
            let claim = of_instance("b-1", &token, &format!("i-{n}"));
            tokio::spawn(async move { claims.admit(&claim, KeyPrint::of_some_key(), now).await })
        })
        .collect();
    let mut labors = std::collections::BTreeSet::new();
    for each in tries {
        match each.await.unwrap() {
            Ok(identity) => assert!(labors.insert(identity.labor), "two instances are one labor"),
            Err(refused) => assert!(matches!(refused, ClaimRefused::Used | ClaimRefused::Full), "{refused}"),
        }
    }
    assert_eq!(labors.len(), 150);
    assert_eq!(rig.code(&of_instance("b-1", &token, "i-999"), rig.now).await, "claim_batch_full");
    rig.claims.remove_batch("b-1").await.unwrap();
    assert_eq!(rig.code(&of_instance("b-1", &token, "i-999"), rig.now).await, "claim_unknown");
    assert_eq!(rig.store.range("", None, 10).await.unwrap().0, []);
}

#[tokio::test]
async fn an_instance_must_be_proved_and_in_time() {
    let rig = rig();
    let token = rig.batch("b", 2).await;
    let good = of_instance("b", &token, "i-1");
    let Claim::Batch { proof, .. } = of_instance("b", &token, "i-2") else { unreachable!() };
    let of_another = Claim::Batch { batch: "b".into(), token: token.clone(), instance: "i-1".into(), proof };
    assert_eq!(rig.code(&of_another, rig.now).await, "claim_not_proved");
    assert_eq!(
        rig.code(&of_instance("b", &Secret::new("x".into()), "i-1"), rig.now).await,
        "claim_wrong_token"
    );
    assert_eq!(rig.code(&of_instance("c", &token, "i-1"), rig.now).await, "claim_unknown");
    for bad in ["", "a/b", "../x", "é", &"i".repeat(129)] {
        assert_eq!(rig.code(&of_instance("b", &token, bad), rig.now).await, "claim_unknown", "{bad:?}");
        assert_eq!(rig.code(&of_instance(bad, &token, "i-1"), rig.now).await, "claim_unknown", "{bad:?}");
        let intent = BatchIntent { batch: bad.to_owned(), fleet: "farm".parse().unwrap(), labors: vec![] };
        assert!(Claims::issue_batch(&intent, TTL, rig.now, [0; 32]).is_err(), "{bad:?}");
    }
    assert_eq!(rig.code(&good, rig.now + TTL).await, "claim_late");
    let without = Claims::new(rig.store.clone());
    assert_eq!(
        without.admit(&good, KeyPrint::of_some_key(), rig.now).await.unwrap_err().code(),
        "claim_not_proved"
    );
    assert_eq!(rig.code(&good, rig.now).await, "admitted");
    assert_eq!(rig.code(&good, rig.now).await, "claim_used");
    let empty = rig.batch("none", 0).await;
    assert_eq!(rig.code(&of_instance("none", &empty, "i-1"), rig.now).await, "claim_batch_full");
}
