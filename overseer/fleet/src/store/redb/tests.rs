//! What users of the embedded store would notice.

mod bad_files;
mod crash;
mod disk_faults;
mod migrations;
mod model;
mod speed;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::store::contract::{self, Subject};

/// Faults of the disk, switched on by a test.
#[derive(Debug, Default)]
pub(in crate::store) struct Faults {
    /// No room is left.
    pub(super) full: AtomicBool,
    /// Writes fail.
    pub(super) write: AtomicBool,
    /// Waiting for the disk fails, after the bytes were written.
    pub(super) sync: AtomicBool,
}

impl Faults {
    fn check(switch: &AtomicBool, errno: rustix::io::Errno) -> io::Result<()> {
        if switch.load(Ordering::SeqCst) { Err(errno.into()) } else { Ok(()) }
    }

    pub(super) fn check_room(&self) -> io::Result<()> {
        Self::check(&self.full, rustix::io::Errno::NOSPC)
    }

    pub(super) fn check_write(&self) -> io::Result<()> {
        Self::check(&self.write, rustix::io::Errno::NOSPC)
    }

    pub(super) fn check_sync(&self) -> io::Result<()> {
        Self::check(&self.sync, rustix::io::Errno::IO)
    }
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub(super) struct HandClock(Mutex<Duration>);

impl HandClock {
    fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Duration {
        *self.0.lock()
    }
}

fn ephemeral(path: &Path) -> RedbStore {
    RedbStore::open(path, Durability::Ephemeral).unwrap()
}

async fn put(store: &RedbStore, key: &str, value: &str) -> Revision {
    match store.transact(Transaction::new().put(key, value.to_owned())).await.unwrap() {
        Outcome::Committed(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn value(store: &RedbStore, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|e| String::from_utf8(e.value.to_vec()).unwrap())
}

fn subject(durability: Durability) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(HandClock::default());
    let options = Options { clock: clock.clone(), log_changes: 2000, ..Options::new(durability) };
    let store = Arc::new(RedbStore::open_with(directory.path().join("store.redb"), options).unwrap());
    let woken = store.clone();
    Subject {
        store,
        advance: Box::new(move |by| {
            clock.advance(by);
            woken.wake();
            Box::pin(std::future::ready(()))
        }),
        log_changes: Some(2000),
        keep: Box::new(directory),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_every_store_does() {
    contract::run(async || subject(Durability::Ephemeral)).await;
    contract::run(async || subject(Durability::Fsync)).await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store.redb");
    let store = ephemeral(&path);
    put(&store, "a", "1").await;
    let at = put(&store, "b", "2").await;
    drop(store);
    let store = ephemeral(&path);
    assert_eq!(value(&store, "a").await.as_deref(), Some("1"));
    assert_eq!(put(&store, "c", "3").await.0, at.0 + 1, "revisions go on");
    // A watch from before the restart is told to read anew, one from then on misses nothing.
    let mut changes = store.watch("", Revision(1)).await.unwrap();
    assert_eq!(changes.recv().await, Some(Change::Compacted(at)));
    assert_eq!(changes.recv().await, None);
    let mut changes = store.watch("", at).await.unwrap();
    assert!(matches!(changes.recv().await, Some(Change::Put(e)) if e.key == "c"));
}

#[tokio::test]
async fn leases_start_anew_after_a_restart_and_ids_are_not_used_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let clock = Arc::new(HandClock::default());
    let open = || {
        let options = Options { clock: clock.clone(), ..Options::new(Durability::Ephemeral) };
        RedbStore::open_with(&path, options).unwrap()
    };
    let store = open();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    store.transact(Transaction::new().put_leased("k", "v", lease)).await.unwrap();
    clock.advance(Duration::from_secs(9));
    drop(store);
    clock.advance(Duration::from_secs(100));
    let store = open();
    clock.advance(Duration::from_secs(9));
    store.wake();
    store.keep_alive(lease).await.unwrap();
    assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    assert_ne!(store.grant(Duration::from_secs(1)).await.unwrap(), lease);
    let (_, at) = store.range("", None, 0).await.unwrap();
    let mut changes = store.watch("", at).await.unwrap();
    clock.advance(Duration::from_secs(10));
    store.wake();
    assert!(matches!(changes.recv().await, Some(Change::Deleted(key, _)) if key == "k"));
    drop(store);
    let store = open();
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoLease(_))), "it ended for good");
}

#[tokio::test]
async fn a_lease_ends_by_itself_with_the_clock_of_the_system() {
    let directory = tempfile::tempdir().unwrap();
    let store = ephemeral(&directory.path().join("store.redb"));
    let lease = store.grant(Duration::from_millis(20)).await.unwrap();
    let mut changes = store.watch("", Revision(0)).await.unwrap();
    store.transact(Transaction::new().put_leased("k", "v", lease)).await.unwrap();
    assert!(matches!(changes.recv().await, Some(Change::Put(_))));
    assert!(matches!(changes.recv().await, Some(Change::Deleted(key, _)) if key == "k"));
}

#[tokio::test]
async fn a_watch_ends_when_the_store_is_closed_and_the_file_is_free_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = ephemeral(&path);
    let mut changes = store.watch("", Revision(0)).await.unwrap();
    drop(store);
    drop(ephemeral(&path));
    assert_eq!(changes.recv().await, None);
}

#[tokio::test]
async fn a_reader_that_goes_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = ephemeral(&directory.path().join("store.redb"));
    let before = Arc::strong_count(&store.shared);
    let watches: Vec<_> = {
        let mut watches = Vec::new();
        for _ in 0..10 {
            watches.push(store.watch("", Revision(0)).await.unwrap());
        }
        watches
    };
    assert_eq!(Arc::strong_count(&store.shared), before + 10);
    drop(watches);
    tokio::time::timeout(Duration::from_secs(10), async {
        while Arc::strong_count(&store.shared) > before {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
