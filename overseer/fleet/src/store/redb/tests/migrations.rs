use std::sync::atomic::{AtomicBool, Ordering};

use super::migrate::{self, Entries, Fate, Fault, Migration};
use super::*;

/// Opens the store as a build with these steps would.
fn open_with_steps(path: &Path, steps: &'static [Migration]) -> Result<RedbStore, StoreError> {
    let place = Place {
        path: path.to_owned(),
        durability: Durability::Fsync,
        cache_bytes: 1 << 20,
        migrations: steps,
        migrate: true,
        faults: Arc::default(),
    };
    RedbStore::start(place, Options::new(Durability::Fsync))
}

/// Opens it to be looked at.
fn open_as_it_is(path: &Path) -> RedbStore {
    let place = Place {
        path: path.to_owned(),
        durability: Durability::Fsync,
        cache_bytes: 1 << 20,
        migrations: STEPS,
        migrate: false,
        faults: Arc::default(),
    };
    RedbStore::start(place, Options::new(Durability::Fsync)).unwrap()
}

fn schema(store: &RedbStore) -> u64 {
    store.schema().unwrap().0
}

fn rename(entries: &mut Entries<'_, '_>) -> Result<(), Fault> {
    entries.each("old/", |key, value| Ok(Fate::Become(key.replace("old/", "new/"), value.to_vec())))
}

fn shout(entries: &mut Entries<'_, '_>) -> Result<(), Fault> {
    entries.each("new/", |key, value| match std::str::from_utf8(value) {
        Ok("keep") => Ok(Fate::Keep),
        Ok("go") => Ok(Fate::Remove),
        Ok(text) => Ok(Fate::Become(key.to_owned(), text.to_uppercase().into())),
        Err(_) => Err("it is no text".to_owned()),
    })
}

/// The process ends in the middle of the second step, once.
static KILLED: AtomicBool = AtomicBool::new(true);

fn shout_or_be_killed(entries: &mut Entries<'_, '_>) -> Result<(), Fault> {
    shout(entries)?;
    if KILLED.load(Ordering::SeqCst) { panic!("killed") } else { Ok(()) }
}

const RENAME: Migration = Migration { to: 2, what: "old is new", run: rename };
const STEPS: &[Migration] = &[RENAME, Migration { to: 3, what: "new is loud", run: shout }];
const KILLED_STEPS: &[Migration] =
    &[RENAME, Migration { to: 3, what: "new is loud", run: shout_or_be_killed }];

async fn old_store(path: &Path, last: impl Into<bytes::Bytes>) {
    let store = open_with_steps(path, &[]).unwrap();
    let lease = store.grant(Duration::from_secs(1000)).await.unwrap();
    let entries = Transaction::new()
        .put("old/a", "one")
        .put("old/b", "keep")
        .put("old/c", "go")
        .put("other", "untouched")
        .put_leased("old/leased", "two", lease)
        .put("old/z", last);
    store.transact(entries).await.unwrap();
    assert_eq!(schema(&store), 1);
}

async fn all(store: &RedbStore) -> Vec<(String, String)> {
    let (entries, _) = store.range("", None, 100).await.unwrap();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    entries.into_iter().map(|e| (e.key, text(&e.value))).collect()
}

fn raised() -> Vec<(String, String)> {
    [("new/a", "ONE"), ("new/b", "keep"), ("new/leased", "TWO"), ("new/z", "Z"), ("other", "untouched")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
}

#[test]
fn the_steps_lead_to_the_schema_without_a_gap() {
    for (step, to) in migrate::MIGRATIONS.iter().zip(migrate::FIRST + 1..) {
        assert_eq!(step.to, to, "{}", step.what);
    }
    assert_eq!(migrate::newest(migrate::MIGRATIONS), tables::SCHEMA);
}

#[tokio::test]
async fn an_older_store_is_raised_and_a_newer_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    old_store(&path, "z").await;
    let (entries, before) = {
        let as_it_is = open_as_it_is(&path);
        (all(&as_it_is).await, as_it_is.range("", None, 1).await.unwrap().1)
    };
    assert_eq!(entries[0].0, "old/a", "it is looked at as it is");
    let store = open_with_steps(&path, STEPS).unwrap();
    assert_eq!((all(&store).await, schema(&store)), (raised(), 3));
    assert_eq!(store.check_tables().await.unwrap(), []);
    let mut changes = store.watch("", before).await.unwrap();
    assert!(matches!(changes.recv().await, Some(Change::Compacted(_))), "a watch reads everything anew");
    let leased = store.get("new/leased").await.unwrap().unwrap();
    store.revoke(leased.lease.unwrap()).await.unwrap();
    assert_eq!(value(&store, "new/leased").await, None, "its lease still ends it");
    drop(store);
    let again = open_with_steps(&path, STEPS).unwrap();
    assert_eq!(schema(&again), 3);
    drop(again);
    let error = open_with_steps(&path, &[]).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 3, known: 1, .. }), "{error}");
    drop(open_with_steps(&directory.path().join("fresh.redb"), STEPS).unwrap());
    assert_eq!(schema(&open_with_steps(&directory.path().join("fresh.redb"), STEPS).unwrap()), 3);
}

#[tokio::test]
async fn a_raise_that_was_killed_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    old_store(&path, "z").await;
    let killed = std::panic::catch_unwind(|| open_with_steps(&path, KILLED_STEPS));
    assert!(killed.is_err());
    let between = open_as_it_is(&path);
    assert_eq!((schema(&between), all(&between).await[0].clone()), (2, ("new/a".into(), "one".into())));
    drop(between);
    KILLED.store(false, Ordering::SeqCst);
    let store = open_with_steps(&path, KILLED_STEPS).unwrap();
    assert_eq!((all(&store).await, schema(&store)), (raised(), 3));
}

#[tokio::test]
async fn an_entry_that_cannot_be_raised_is_named_and_nothing_of_its_step_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    old_store(&path, &b"\xff"[..]).await;
    let error = open_with_steps(&path, STEPS).unwrap_err();
    assert!(
        matches!(&error, StoreError::Migration { to: 3, reason, .. } if reason.contains("new/z")),
        "{error}"
    );
    let between = open_as_it_is(&path);
    assert_eq!((schema(&between), all(&between).await[0].clone()), (2, ("new/a".into(), "one".into())));
}

/// A file as the first release wrote it, with a log of changes and their counters in it.
#[tokio::test]
async fn a_store_of_schema_1_loses_its_log_of_changes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    old_store(&path, "z").await;
    let log = ::redb::TableDefinition::<(u64, u32), &[u8]>::new("log");
    let before = {
        let database = Database::open(&path).unwrap();
        let read = database.begin_read().unwrap();
        let state = tables::read_state(&read).unwrap();
        drop(read);
        let write = database.begin_write().unwrap();
        let counters = [state.revision, state.lease, 0, 1, 5, state.commit];
        let counters: Vec<u8> = counters.iter().flat_map(|n| n.to_le_bytes()).collect();
        write.open_table(tables::META).unwrap().insert("state", counters.as_slice()).unwrap();
        write.open_table(log).unwrap().insert((1, 0), [1, 0, b'k', 0, 0].as_slice()).unwrap();
        write.commit().unwrap();
        state
    };
    let entries = all(&open_as_it_is(&path)).await;
    let store = RedbStore::open(&path, Durability::Fsync).unwrap();
    assert_eq!((all(&store).await, store.schema().unwrap()), (entries, (2, 2)));
    assert_eq!(store.check_tables().await.unwrap(), []);
    assert_eq!(put(&store, "next", "1").await.0, before.revision + 2);
    drop(store);
    let read = Database::open(&path).unwrap().begin_read().unwrap();
    assert!(read.open_table(log).is_err());
}
