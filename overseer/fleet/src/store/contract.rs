//! What every [`Store`] must do, as a suite that takes any of them. For tests: it panics with
//! what was wrong.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Change, Compare, Entry, LeaseId, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Operation,
    Outcome, Revision, Store, StoreError, Transaction,
};

/// Makes time pass for a store: with an injected clock at once, else by waiting.
pub type Advance = Box<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// An empty store to be tested.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its time.
    pub advance: Advance,
    /// So many changes later a watch is told `Compacted`, where the store promises a bound.
    pub log_changes: Option<u64>,
    /// What must live as long as the store, such as its directory.
    pub keep: Box<dyn std::any::Any + Send + Sync>,
}

/// Longest wait for something that must come.
const SOON: Duration = Duration::from_secs(20);

/// Runs the whole suite; `make` gives a new empty store each time.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Subject>,
{
    entries_are_read_back(&make().await).await;
    ranges_are_in_order_and_paged(&make().await).await;
    transactions_are_all_or_nothing(&make().await).await;
    compares_see_what_is_stored(&make().await).await;
    limits_are_kept(&make().await).await;
    a_watch_tells_each_change_once(&make().await).await;
    a_watch_from_now_tells_only_what_follows(&make().await).await;
    a_watch_that_lags_is_told(&make().await).await;
    leased_keys_end_with_their_lease(&make().await).await;
    leases_can_be_kept_and_revoked(&make().await).await;
    concurrent_counters_add_up(&make().await).await;
}

async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) -> Revision {
    commit(store, Transaction::new().put(key, value)).await
}

async fn commit(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.transact(transaction).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(index) => panic!("compare {index} did not hold"),
    }
}

async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
    let change = tokio::time::timeout(SOON, changes.recv()).await;
    change.expect("no change was told").expect("the watch ended")
}

async fn keys(store: &dyn Store, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    store.range(prefix, after, limit).await.unwrap().0.into_iter().map(|e| e.key).collect()
}

async fn entries_are_read_back(subject: &Subject) {
    let store = &*subject.store;
    assert_eq!(store.get("a").await.unwrap(), None);
    let longest = "k".repeat(MAX_KEY_BYTES);
    let binary: Vec<u8> = (0..=255).collect();
    let largest = vec![7; MAX_TRANSACTION_BYTES - 1];
    for (key, value) in
        [("a", &b""[..]), ("\0", b"\0"), ("ключ/€", &binary), (&longest, b"x"), ("l", &largest)]
    {
        let revision = put(store, key, value.to_vec()).await;
        let entry = Entry { key: key.into(), value: value.to_vec().into(), revision, lease: None };
        assert_eq!(store.get(key).await.unwrap(), Some(entry), "{key:?}");
    }
    let first = put(store, "a", "1").await;
    let second = put(store, "a", "2").await;
    assert_eq!(second.0, first.0 + 1, "a revision grows by one");
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, second);
    commit(store, Transaction::new().delete("a")).await;
    assert_eq!(store.get("a").await.unwrap(), None);
    commit(store, Transaction::new().delete("a")).await;
}

async fn ranges_are_in_order_and_paged(subject: &Subject) {
    let store = &*subject.store;
    assert_eq!(keys(store, "", None, 10).await, Vec::<String>::new());
    let mut all: Vec<String> = (0..300).map(|n| format!("n/{n:03}")).collect();
    for chunk in all.chunks(100) {
        let transaction = chunk.iter().rev().fold(Transaction::new(), |t, key| t.put(key.as_str(), "v"));
        commit(store, transaction).await;
    }
    for other in ["m", "n", "n.", "n/", "n0", "o", "n/é"] {
        put(store, other, "x").await;
    }
    all.insert(0, "n/".into());
    all.push("n/é".into());
    assert_eq!(keys(store, "n/", None, 1000).await, all);
    assert_eq!(keys(store, "n/", None, 0).await, Vec::<String>::new());
    let mut paged = Vec::new();
    while let Some(page) = Some(keys(store, "n/", paged.last().map(String::as_str), 7).await) {
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 7);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(keys(store, "n/", Some("a"), 1).await, ["n/"], "before the prefix");
    assert_eq!(keys(store, "n/", Some("zz"), 1).await, Vec::<String>::new(), "behind it");
    let (_, revision) = store.range("nothing", None, 1).await.unwrap();
    assert_eq!(put(store, "last", "").await.0, revision.0 + 1, "a range tells the revision");
}

async fn transactions_are_all_or_nothing(subject: &Subject) {
    let store = &*subject.store;
    let at = put(store, "a", "1").await;
    let conflict = Transaction::new().unchanged("a", at).absent("a").put("b", "2").delete("a");
    assert_eq!(store.transact(conflict).await.unwrap(), Outcome::Conflict(1));
    assert_eq!(store.get("b").await.unwrap(), None);
    let both = commit(store, Transaction::new().unchanged("a", at).put("b", "2").delete("a")).await;
    assert_eq!(both.0, at.0 + 1, "a conflict takes no revision");
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.get("b").await.unwrap().unwrap().revision, both);
    let mut no_lease = Transaction::new().put("c", "3");
    no_lease.operations.push(Operation::Put("d".into(), "4".into(), Some(LeaseId(u64::MAX >> 1))));
    assert!(matches!(store.transact(no_lease).await, Err(StoreError::NoLease(_))));
    assert_eq!(store.get("c").await.unwrap(), None);
}

async fn compares_see_what_is_stored(subject: &Subject) {
    let store = &*subject.store;
    let at = put(store, "a", "1").await;
    let holds = [
        (Compare::Absent("a".into()), false),
        (Compare::Absent("b".into()), true),
        (Compare::Present("a".into()), true),
        (Compare::Present("b".into()), false),
        (Compare::Unchanged("a".into(), at), true),
        (Compare::Unchanged("a".into(), Revision(at.0 + 1)), false),
        (Compare::Unchanged("b".into(), at), false),
    ];
    for (compare, expected) in holds {
        let transaction = Transaction { compares: vec![compare.clone()], operations: vec![] };
        let outcome = store.transact(transaction).await.unwrap();
        assert_eq!(matches!(outcome, Outcome::Committed(_)), expected, "{compare:?}: {outcome:?}");
    }
    let (first, second) = tokio::join!(
        store.transact(Transaction::new().absent("once").put("once", "1")),
        store.transact(Transaction::new().absent("once").put("once", "2")),
    );
    let won = [first.unwrap(), second.unwrap()].iter().filter(|o| matches!(o, Outcome::Committed(_))).count();
    assert_eq!(won, 1, "of two that race, one wins");
}

async fn limits_are_kept(subject: &Subject) {
    let store = &*subject.store;
    let many = |n: usize| (0..n).fold(Transaction::new(), |t, i| t.put(format!("m/{i}"), ""));
    let over = store.transact(many(MAX_OPERATIONS + 1)).await;
    assert!(matches!(over, Err(StoreError::TooLarge { count: 129, .. })), "{over:?}");
    let large = Transaction::new().put("large", vec![0; MAX_TRANSACTION_BYTES]);
    assert!(matches!(store.transact(large).await, Err(StoreError::TooLarge { .. })));
    for bad in [String::new(), "k".repeat(MAX_KEY_BYTES + 1)] {
        assert!(matches!(store.transact(Transaction::new().put(bad, "")).await, Err(StoreError::BadKey(_))));
    }
    let twice = Transaction::new().put("t", "1").delete("t");
    assert!(matches!(store.transact(twice).await, Err(StoreError::Twice(_))));
    assert_eq!(keys(store, "", None, 10).await, Vec::<String>::new(), "what was refused changed nothing");
    commit(store, many(MAX_OPERATIONS)).await;
    assert_eq!(keys(store, "m/", None, 200).await.len(), MAX_OPERATIONS);
}

async fn a_watch_tells_each_change_once(subject: &Subject) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 60;
    let (_, start) = subject.store.range("", None, 1).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = subject.store.clone();
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                put(&*store, &format!("w/{writer}"), n.to_string()).await;
            }
        }));
    }
    // One watch from before the writes, one that begins among them.
    let mut changes = subject.store.watch("w/", start).await.unwrap();
    let mut seen = vec![next(&mut changes).await];
    let mut late = subject.store.watch("w/", start).await.unwrap();
    while (seen.len() as u64) < WRITERS * EACH {
        seen.push(next(&mut changes).await);
    }
    let mut last = vec![0; WRITERS as usize];
    for (index, change) in seen.iter().enumerate() {
        let Change::Put(entry) = change else { panic!("{change:?}") };
        assert_eq!(entry.revision.0, start.0 + 1 + index as u64, "no gap, no double, in order");
        let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let writer: usize = entry.key[2..].parse().unwrap();
        assert_eq!(n, last[writer]);
        last[writer] += 1;
    }
    for change in &seen {
        assert_eq!(&next(&mut late).await, change);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // All changes of one transaction, in its order, each with its revision.
    let at = commit(&*subject.store, Transaction::new().put("w/y", "1").delete("w/0").put("x", "")).await;
    assert!(matches!(next(&mut changes).await, Change::Put(e) if e.key == "w/y" && e.revision == at));
    assert_eq!(next(&mut changes).await, Change::Deleted("w/0".into(), at));
    let at = put(&*subject.store, "w/z", "").await;
    assert!(matches!(next(&mut changes).await, Change::Put(e) if e.key == "w/z" && e.revision == at));
}

async fn a_watch_from_now_tells_only_what_follows(subject: &Subject) {
    let store = &*subject.store;
    put(store, "a/1", "old").await;
    let (entries, at) = store.range("a/", None, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    let mut changes = store.watch("a/", at).await.unwrap();
    put(store, "b/1", "other").await;
    commit(store, Transaction::new().delete("a/none")).await;
    put(store, "a/2", "new").await;
    assert!(matches!(next(&mut changes).await, Change::Put(e) if e.key == "a/2"));
}

async fn a_watch_that_lags_is_told(subject: &Subject) {
    let Some(bound) = subject.log_changes else { return };
    let store = &*subject.store;
    let (_, start) = store.range("", None, 1).await.unwrap();
    let mut stalled = store.watch("", start).await.unwrap();
    let mut written = 0;
    while written < 3 * bound {
        let transaction = (0..100).fold(Transaction::new(), |t, n| t.put(format!("k/{n}"), "v"));
        commit(store, transaction).await;
        written += 100;
    }
    let (_, at) = store.range("", None, 1).await.unwrap();
    let mut from_start = store.watch("", start).await.unwrap();
    let told = next(&mut from_start).await;
    assert!(matches!(told, Change::Compacted(r) if r > start && r < at), "{told:?}");
    assert_eq!(tokio::time::timeout(SOON, from_start.recv()).await.unwrap(), None, "and then it ends");
    // One that was open all the time has a beginning without a gap, then is told as well.
    let mut last = start;
    loop {
        match next(&mut stalled).await {
            Change::Put(entry) => {
                assert!(entry.revision == last || entry.revision.0 == last.0 + 1);
                last = entry.revision;
            }
            Change::Compacted(revision) => {
                assert!(revision >= last);
                break;
            }
            other @ Change::Deleted(..) => panic!("{other:?}"),
        }
    }
    // Reading anew and watching from there works.
    let (_, at) = store.range("", None, 1).await.unwrap();
    let mut anew = store.watch("", at).await.unwrap();
    put(store, "end", "").await;
    assert!(matches!(next(&mut anew).await, Change::Put(e) if e.key == "end"));
}

async fn leased_keys_end_with_their_lease(subject: &Subject) {
    let store = &*subject.store;
    let ttl = Duration::from_secs(5);
    let lease = store.grant(ttl).await.unwrap();
    let other = store.grant(ttl * 100).await.unwrap();
    assert_ne!(lease, other);
    let leased = |key: &str| Transaction::new().put_leased(key, "v", lease);
    for key in ["l/1", "l/2", "moved", "freed"] {
        commit(store, leased(key)).await;
    }
    commit(store, Transaction::new().put_leased("moved", "v", other)).await;
    let at = put(store, "freed", "v").await;
    assert_eq!(store.get("l/1").await.unwrap().unwrap().lease, Some(lease));
    assert_eq!(store.get("freed").await.unwrap().unwrap().lease, None);
    let mut changes = store.watch("", at).await.unwrap();
    (subject.advance)(ttl).await;
    assert!(matches!(next(&mut changes).await, Change::Deleted(key, _) if key == "l/1"));
    assert!(matches!(next(&mut changes).await, Change::Deleted(key, _) if key == "l/2"));
    assert_eq!(keys(store, "", None, 10).await, ["freed", "moved"]);
    assert!(matches!(store.transact(leased("late")).await, Err(StoreError::NoLease(l)) if l == lease));
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoLease(_))));
}

async fn leases_can_be_kept_and_revoked(subject: &Subject) {
    let store = &*subject.store;
    let ttl = Duration::from_secs(6);
    let (kept, left) = (store.grant(ttl).await.unwrap(), store.grant(ttl).await.unwrap());
    commit(store, Transaction::new().put_leased("kept", "v", kept)).await;
    let at = commit(store, Transaction::new().put_leased("left", "v", left)).await;
    let mut changes = store.watch("", at).await.unwrap();
    (subject.advance)(ttl / 2).await;
    store.keep_alive(kept).await.unwrap();
    (subject.advance)(ttl / 2).await;
    assert!(matches!(next(&mut changes).await, Change::Deleted(key, _) if key == "left"));
    store.keep_alive(kept).await.unwrap();
    assert_eq!(keys(store, "", None, 10).await, ["kept"]);
    store.revoke(kept).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Deleted(key, _) if key == "kept"));
    assert_eq!(keys(store, "", None, 10).await, Vec::<String>::new());
    assert!(matches!(store.keep_alive(kept).await, Err(StoreError::NoLease(_))));
    store.revoke(kept).await.unwrap();
    let never = LeaseId(u64::MAX >> 1);
    store.revoke(never).await.unwrap();
    assert!(matches!(store.keep_alive(never).await, Err(StoreError::NoLease(_))));
}

async fn concurrent_counters_add_up(subject: &Subject) {
    const TASKS: usize = 8;
    const EACH: u64 = 25;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let store = subject.store.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..EACH {
                while !increment(&*store).await {}
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let total = subject.store.get("counter").await.unwrap().unwrap();
    assert_eq!(total.value, (TASKS as u64 * EACH).to_string());
}

async fn increment(store: &dyn Store) -> bool {
    let transaction = match store.get("counter").await.unwrap() {
        None => Transaction::new().absent("counter").put("counter", "1"),
        Some(entry) => {
            let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            Transaction::new().unchanged("counter", entry.revision).put("counter", (count + 1).to_string())
        }
    };
    matches!(store.transact(transaction).await.unwrap(), Outcome::Committed(_))
}
