//! What the durability of tasks costs. Not a test: it prints figures.
//!
//! `cargo test --release -p overseer durable -- --ignored --nocapture --test-threads 1`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use overseer_protocol::{Attempt, Generation, LaborId, TaskId};
use tokio::sync::{Semaphore, mpsc};

use super::keys;
use super::record::{Content, Retry, TaskRecord, TaskState};
use super::storage::{Change, Submitted, TaskStorage};
use super::writer::{self, Written};
use crate::blobs::DirectoryBlobs;
use crate::store::{Durability, RedbStore, Store, Transaction};

/// Transactions on their way, as the writer of tasks has them.
const IN_FLIGHT: usize = 16;
/// Changes in each.
const CHANGES: usize = 20;
const TASKS: usize = 20_000;

fn record(n: usize, state: TaskState) -> TaskRecord {
    TaskRecord {
        fleet: "farm".parse().unwrap(),
        task: TaskId(n as u128 + (1 << 90)),
        method: "greet".into(),
        payload: Content::Store { bytes: 7 },
        key: None,
        retry: Retry::default(),
        queue_until_ms: None,
        run_ms: None,
        trace: None,
        submitted_ms: 1_700_000_000_000,
        attempts: 1,
        charged: 0,
        suspicion: Default::default(),
        cancelled: false,
        history: vec![],
        state,
    }
}

fn per_second(n: usize, since: Instant) -> f64 {
    n as f64 / since.elapsed().as_secs_f64()
}

/// (a) One put each, in one table, in commits of as many changes as are in flight.
fn raw(directory: &std::path::Path) -> f64 {
    let table = ::redb::TableDefinition::<&str, &[u8]>::new("data");
    let database = ::redb::Builder::new().set_cache_size(4 << 20).create(directory.join("raw.redb")).unwrap();
    let value = serde_json::to_vec(&record(1, TaskState::Queued { not_before_ms: 0 })).unwrap();
    let fleet = "raw".parse().unwrap();
    let started = Instant::now();
    for group in 0..TASKS * 3 / (IN_FLIGHT * CHANGES) {
        let write = database.begin_write().unwrap();
        let mut open = write.open_table(table).unwrap();
        for n in 0..IN_FLIGHT * CHANGES {
            let task = TaskId(((group * IN_FLIGHT * CHANGES + n) % TASKS) as u128 + (1 << 90));
            open.insert(keys::live(&fleet, task).as_str(), value.as_slice()).unwrap();
        }
        drop(open);
        write.commit().unwrap();
    }
    per_second(TASKS * 3, started)
}

/// (a') The very writes of (c), of one transition after the other, without anything around them:
/// transitions a second.
fn raw_path(directory: &std::path::Path) -> f64 {
    let table = ::redb::TableDefinition::<&str, &[u8]>::new("data");
    let database =
        ::redb::Builder::new().set_cache_size(4 << 20).create(directory.join("path.redb")).unwrap();
    let fleet = "raw".parse().unwrap();
    let (attempt, generation, labor) = (Attempt(1), Generation(1), LaborId::new(1, 1));
    let at_ms = 1_700_000_000_000;
    let result = Content::Store { bytes: 7 };
    let states = [
        TaskState::Queued { not_before_ms: 0 },
        TaskState::Running { attempt, labor, generation, since_ms: 1 },
        TaskState::Done { result, attempt, labor, generation, at_ms },
    ];
    let values = states.map(|state| serde_json::to_vec(&record(1, state)).unwrap());
    let started = Instant::now();
    for group in 0..TASKS / (IN_FLIGHT * CHANGES) {
        for (step, value) in values.iter().enumerate() {
            let write = database.begin_write().unwrap();
            let mut open = write.open_table(table).unwrap();
            for n in 0..IN_FLIGHT * CHANGES {
                let task = TaskId((group * IN_FLIGHT * CHANGES + n) as u128 + (1 << 90));
                let live = keys::live(&fleet, task);
                match step {
                    0 => {
                        open.insert(live.as_str(), value.as_slice()).unwrap();
                        open.insert(keys::payload(&fleet, task).as_str(), b"\"world\"".as_slice()).unwrap();
                    }
                    1 => drop(open.insert(live.as_str(), value.as_slice()).unwrap()),
                    _ => {
                        open.remove(live.as_str()).unwrap();
                        open.remove(keys::payload(&fleet, task).as_str()).unwrap();
                        open.insert(keys::over(&fleet, task).as_str(), value.as_slice()).unwrap();
                        open.insert(keys::by_end(&fleet, at_ms, task).as_str(), b"".as_slice()).unwrap();
                        open.insert(keys::result(&fleet, task).as_str(), b"\"hello\"".as_slice()).unwrap();
                    }
                }
            }
            drop(open);
            write.commit().unwrap();
        }
    }
    per_second(TASKS / (IN_FLIGHT * CHANGES) * (IN_FLIGHT * CHANGES) * 3, started)
}

/// (b) The same puts through the store, in concurrent transactions.
async fn through_the_store(store: &Arc<RedbStore>) -> f64 {
    let value: Bytes = serde_json::to_vec(&record(1, TaskState::Queued { not_before_ms: 0 })).unwrap().into();
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut running = Vec::new();
    for _ in 0..IN_FLIGHT {
        let (store, value, next) = (Arc::clone(store), value.clone(), Arc::clone(&next));
        running.push(tokio::spawn(async move {
            let fleet = "raw".parse().unwrap();
            loop {
                let from = next.fetch_add(CHANGES, Ordering::Relaxed);
                if from >= TASKS * 3 {
                    return;
                }
                let tasks = (from..from + CHANGES).map(|n| TaskId((n % TASKS) as u128 + (1 << 90)));
                let puts = tasks
                    .fold(Transaction::new(), |all, task| all.put(keys::live(&fleet, task), value.clone()));
                store.transact(puts).await.unwrap();
            }
        }));
    }
    for task in running {
        task.await.unwrap();
    }
    per_second(TASKS * 3, started)
}

/// (c) submit → running → done, each stored: transitions a second, and those of the last two.
async fn whole_path(store: &Arc<RedbStore>, directory: &std::path::Path) -> (f64, f64) {
    let blobs = DirectoryBlobs::open_with(directory.join("blobs"), Durability::Fsync).unwrap();
    let storage = TaskStorage::new(store.clone(), Arc::new(blobs), "farm".parse().unwrap());
    let started = Instant::now();
    let clients = Arc::new(Semaphore::new(IN_FLIGHT * CHANGES));
    let (changes, receive) = mpsc::unbounded_channel();
    let (told, mut stored) = mpsc::unbounded_channel();
    let tell = move |written| drop(told.send(written));
    let writing = tokio::spawn(writer::run(storage.clone(), receive, tell));
    let (submitted, mut submits) = mpsc::unbounded_channel();
    let submitter = tokio::spawn(async move {
        for n in 0..TASKS {
            let place = Arc::clone(&clients).acquire_owned().await.unwrap();
            let (storage, submitted) = (storage.clone(), submitted.clone());
            tokio::spawn(async move {
                let queued = record(n, TaskState::Queued { not_before_ms: 0 });
                let payload = Bytes::from_static(b"\"world\"");
                let Ok(Submitted::New(revision)) = storage.submit(&queued, &payload).await else {
                    panic!("not submitted")
                };
                let _ = submitted.send((n, revision));
                drop(place);
            });
        }
    });
    let (attempt, generation, labor) = (Attempt(1), Generation(1), LaborId::new(1, 1));
    let mut running = std::collections::HashSet::new();
    let (mut done, mut writes, begun) = (0, 0, Instant::now());
    while done < TASKS {
        tokio::select! {
            Some((n, revision)) = submits.recv() => {
                let state = TaskState::Running { attempt, labor, generation, since_ms: 1 };
                let record = Box::new(record(n, state));
                changes.send(Change { record, revision, result: None }).unwrap();
            }
            Some(written) = stored.recv() => {
                let Written::Stored(task, revision) = written else { panic!("foreign") };
                writes += 1;
                if !running.insert(task) {
                    done += 1;
                    continue;
                }
                let result = Content::Store { bytes: 7 };
                let state = TaskState::Done { result, attempt, labor, generation, at_ms: 1_700_000_000_000 };
                let record = Box::new(record((task.0 - (1 << 90)) as usize, state));
                changes.send(Change { record, revision, result: Some(Bytes::from_static(b"\"hello\"")) }).unwrap();
            }
        }
    }
    let figures = (per_second(TASKS * 3, started), per_second(writes, begun));
    drop(changes);
    submitter.await.unwrap();
    writing.await.unwrap();
    figures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run it in release mode"]
async fn durable_task_transitions() {
    let directory = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or(".".into())).unwrap();
    let started = Instant::now();
    let file = std::fs::File::create(directory.path().join("sync")).unwrap();
    for n in 0..50u8 {
        std::os::unix::fs::FileExt::write_at(&file, &[n; 4096], u64::from(n) * 4096).unwrap();
        file.sync_data().unwrap();
    }
    println!("a write of 4 KiB with fdatasync: {:.2?}", started.elapsed() / 50);
    let raw = raw(directory.path());
    println!("(a) raw redb, commits of {}: {raw:.0} puts/s", IN_FLIGHT * CHANGES);
    let path = raw_path(directory.path());
    println!("(a') raw redb, the writes of (c), commits of {}: {path:.0} transitions/s", IN_FLIGHT * CHANGES);
    let store = Arc::new(RedbStore::open(directory.path().join("store.redb"), Durability::Fsync).unwrap());
    let through = through_the_store(&store).await;
    println!(
        "(b) the store, {IN_FLIGHT} transactions of {CHANGES}: {through:.0} puts/s, {:.2} of raw",
        through / raw
    );
    let (all, last) = whole_path(&store, directory.path()).await;
    println!(
        "(c) submit, running, done: {all:.0} transitions/s, {:.2} of (a'); {last:.0} of them a second by the writer",
        all / path
    );
}
