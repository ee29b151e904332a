use std::time::{Duration, SystemTime};

use overseer_adapter::NodeKey;
use overseer_protocol::{Attempt, Generation, LaborId, TaskId};

use super::*;
use crate::authority::Authority;
use crate::claims::Claims;
use crate::records::LaborRecord;
use crate::store::Transaction;
use crate::tasks::{self, Content, TaskRecord, TaskState, TaskStorage};

pub(crate) fn task(n: u128, payload: Content, state: TaskState) -> TaskRecord {
    TaskRecord {
        fleet: "farm".parse().unwrap(),
        task: TaskId(n),
        method: "greet".into(),
        payload,
        key: Some(crate::tasks::IdempotencyKey { name: format!("key-{n}"), digest: "d".into() }),
        retry: Default::default(),
        queue_until_ms: None,
        run_ms: None,
        trace: None,
        submitted_ms: 1,
        attempts: 1,
        charged: 0,
        suspicion: Default::default(),
        cancelled: false,
        history: vec![],
        state,
    }
}

/// A directory with something of each kind: an authority, a labor with its claim, and two tasks,
/// one at work with a small payload and one that is over with a large result.
pub(crate) async fn filled(path: &std::path::Path) -> DataDir {
    let data = DataDir::open(path).unwrap();
    let store = data.store();
    Authority::load_or_create(&*store, SystemTime::now()).await.unwrap();
    let (fleet, labor): (overseer_protocol::FleetName, _) = ("farm".parse().unwrap(), LaborId::new(1, 1));
    let record = LaborRecord {
        fleet: fleet.clone(),
        labor,
        generation: Generation(1),
        adapter: "local".into(),
        state: overseer_protocol::LaborState::Ready,
        node: None,
        unwanted: false,
        invited: None,
        cause: None,
        updated_ms: 1,
    };
    let key = NodeKey { fleet: fleet.clone(), labor, generation: Generation(1) };
    let claim = Claims::issue(&key, Duration::from_secs(60), SystemTime::now(), [7; 32]);
    let operations = vec![record.put(), claim.operation];
    store.transact(Transaction { compares: vec![], operations }).await.unwrap();
    let storage = TaskStorage::new(store.clone(), data.task_blobs(), fleet);
    let small = bytes::Bytes::from_static(b"\"world\"");
    let payload = storage.keep(&small).await.unwrap();
    let queued = TaskState::Queued { not_before_ms: 0 };
    assert!(storage.submit(&task(1, payload.clone(), queued.clone()), &small).await.is_ok());
    let result = storage.keep(&vec![b'x'; 100_000].into()).await.unwrap();
    let Ok(tasks::Submitted::New(revision)) = storage.submit(&task(2, payload.clone(), queued), &small).await
    else {
        panic!("not submitted")
    };
    let (attempt, generation) = (Attempt(1), Generation(1));
    let done = TaskState::Done { result, attempt, labor, generation, at_ms: 5 };
    let record = Box::new(task(2, payload, done));
    storage.write(&[tasks::Change { record, revision, result: None }]).await.unwrap().unwrap();
    data
}

async fn checked(data: &DataDir, deep: bool) -> Report {
    check(data, &[], deep, |_| {}).await.unwrap()
}

fn problems(report: &Report) -> Vec<(&str, &str)> {
    report.problems.iter().map(|p| (p.key.as_str(), p.kind)).collect()
}

#[tokio::test]
async fn a_good_store_is_counted_and_clean() {
    let directory = tempfile::tempdir().unwrap();
    let data = filled(&directory.path().join("data")).await;
    let report = checked(&data, true).await;
    assert!(report.is_clean(), "{report:#?}");
    for (kind, count) in
        [("labors", 1), ("claims", 1), ("tasks at work", 1), ("idempotency keys", 2), ("batches", 0)]
    {
        assert_eq!(report.counts[kind], count, "{kind}");
    }
    assert_eq!((report.blobs, report.entries), (1, report.counts.values().sum()));
}

#[tokio::test]
async fn what_is_missing_unknown_or_changed_is_named_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let data = filled(&directory.path().join("data")).await;
    let fleet = "farm".parse().unwrap();
    let (live, over) = (tasks::live(&fleet, TaskId(1)), tasks::over(&fleet, TaskId(2)));
    let ended = tasks::by_end(&fleet, 5, TaskId(2));
    type Found<'a> = Vec<(&'a str, &'a str)>;
    let cases: Vec<(&str, Transaction, Found<'_>)> = vec![
        ("unknown", Transaction::new().put("zebra/1", "x"), vec![("zebra/1", "unknown_key")]),
        (
            "no payload",
            Transaction::new().delete("task-in/farm/".to_owned() + &TaskId(1).to_string()),
            vec![(&live, "missing")],
        ),
        ("no key", Transaction::new().delete("task-keys/farm/key-2"), vec![(&over, "missing")]),
        ("no end", Transaction::new().delete(&ended), vec![(&over, "missing")]),
        ("rubbish", Transaction::new().put("labors/farm/x", "{}"), vec![("labors/farm/x", "unreadable")]),
        (
            "a key of no task",
            Transaction::new().put(
                "task-keys/farm/k",
                format!("{{\"task\":\"{}\",\"name\":\"k\",\"digest\":\"\"}}", TaskId(9)),
            ),
            vec![("task-keys/farm/k", "missing")],
        ),
    ];
    let store = data.store();
    for (what, change, expected) in cases {
        let keys: Vec<String> = change.operations.iter().map(|o| o.key().to_owned()).collect();
        let mut before = Vec::new();
        for key in &keys {
            before.push((key.clone(), store.get(key).await.unwrap()));
        }
        store.transact(change).await.unwrap();
        let report = checked(&data, false).await;
        assert_eq!(problems(&report), expected, "{what}: {report:#?}");
        for (key, entry) in before {
            let undo = match entry {
                Some(entry) => Transaction::new().put(key, entry.value),
                None => Transaction::new().delete(key),
            };
            store.transact(undo).await.unwrap();
        }
    }
    assert!(checked(&data, false).await.is_clean());
}

#[tokio::test]
async fn a_blob_that_is_gone_or_changed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let data = filled(&directory.path().join("data")).await;
    let digest = data.task_blobs().list().await.unwrap()[0].info.digest.clone();
    let file = data.path().join("task-blobs").join(&digest[..2]).join(&digest[2..4]).join(&digest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[500] ^= 1;
    // A blob may be read-only.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    assert!(checked(&data, false).await.is_clean(), "only a deep check reads them");
    assert_eq!(checked(&data, true).await.problems[0].kind, "blob");
    std::fs::remove_file(&file).unwrap();
    let report = checked(&data, false).await;
    assert!(report.problems[0].what.contains("is not there"), "{report:#?}");
}
