use super::*;

struct Rig {
    store: RedbStore,
    faults: Arc<Faults>,
    _directory: tempfile::TempDir,
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let options = Options::new(Durability::Fsync);
    let place = Place {
        path: directory.path().join("store.redb"),
        durability: options.durability,
        cache_bytes: options.cache_bytes,
        migrations: migrate::MIGRATIONS,
        migrate: true,
        faults: faults.clone(),
    };
    Rig { store: RedbStore::start(place, options).unwrap(), faults, _directory: directory }
}

async fn refused(store: &RedbStore) -> StoreError {
    store.transact(Transaction::new().put("b", "2")).await.unwrap_err()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_is_over_when_there_is_room() {
    let Rig { store, faults, .. } = &rig();
    put(store, "a", "1").await;
    faults.full.store(true, Ordering::SeqCst);
    let error = refused(store).await;
    assert!(matches!(&error, StoreError::NotWritable { path, .. } if path.ends_with("store.redb")));
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(matches!(store.grant(Duration::from_secs(1)).await, Err(StoreError::NotWritable { .. })));
    assert_eq!(value(store, "a").await.as_deref(), Some("1"));
    faults.full.store(false, Ordering::SeqCst);
    assert_eq!(value(store, "b").await, None);
    put(store, "b", "3").await;
    assert_eq!(value(store, "b").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_write_that_fails_stores_nothing_and_the_store_recovers() {
    let Rig { store, faults, .. } = &rig();
    let at = put(store, "a", "1").await;
    let mut changes = store.watch("", at).await.unwrap();
    faults.write.store(true, Ordering::SeqCst);
    let error = refused(store).await;
    let known = matches!(error, StoreError::NotWritable { .. } | StoreError::Uncertain { .. });
    assert!(known, "{error}");
    assert!(matches!(refused(store).await, StoreError::NotWritable { .. }), "as long as the fault lasts");
    faults.write.store(false, Ordering::SeqCst);
    let next = put(store, "c", "3").await;
    assert_eq!(next.0, at.0 + 1);
    assert_eq!(value(store, "a").await.as_deref(), Some("1"));
    assert_eq!(value(store, "b").await, None);
    assert!(matches!(changes.recv().await, Some(Change::Put(e)) if e.key == "c"), "watches go on");
}

#[tokio::test]
async fn a_disk_that_fails_while_it_syncs_never_leads_to_a_wrong_answer() {
    let Rig { store, faults, .. } = &rig();
    put(store, "a", "1").await;
    faults.sync.store(true, Ordering::SeqCst);
    let outcome = store.transact(Transaction::new().put("b", "2")).await;
    faults.sync.store(false, Ordering::SeqCst);
    put(store, "c", "3").await;
    let stored = value(store, "b").await.is_some();
    match outcome {
        Ok(Outcome::Committed(_)) => assert!(stored),
        Err(StoreError::NotWritable { .. }) => assert!(!stored),
        Err(StoreError::Uncertain { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(value(store, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn readers_come_back_by_themselves_after_a_fault() {
    let Rig { store, faults, .. } = &rig();
    put(store, "a", "1").await;
    faults.write.store(true, Ordering::SeqCst);
    refused(store).await;
    faults.write.store(false, Ordering::SeqCst);
    // Nobody writes: the writer tries again on its own.
    let mut published = store.shared.published.subscribe();
    while store.get("a").await.is_err() {
        tokio::time::timeout(Duration::from_secs(20), published.changed()).await.unwrap().unwrap();
    }
    assert_eq!(value(store, "a").await.as_deref(), Some("1"));
}

const LIMITED: &str = "OVERSEER_TEST_STORE_LIMIT";

/// The kernel refuses to let the file grow: the test runs itself under a limit.
#[tokio::test]
async fn a_file_that_may_not_grow_keeps_what_it_has() {
    let Ok(directory) = std::env::var(LIMITED) else {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"trap "" XFSZ; ulimit -f 16384; exec "$0" "$@""#;
        let name = "store::redb::tests::disk_faults::a_file_that_may_not_grow_keeps_what_it_has";
        let child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(LIMITED, directory.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    };
    let path = Path::new(&directory).join("store.redb");
    let store = RedbStore::open(&path, Durability::Fsync).unwrap();
    let large = |n: u32| Transaction::new().put(format!("large/{n}"), vec![n as u8; 100_000]);
    let mut stored = 0;
    let error = loop {
        match store.transact(large(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    assert!(stored > 1);
    let all = async |store: &RedbStore| {
        let (entries, _) = store.range("large/", None, 1000).await.unwrap();
        assert_eq!(entries.len(), stored as usize);
        assert!(entries.iter().all(|e| e.value.len() == 100_000));
    };
    all(&store).await;
    put(&store, "small", "fits").await;
    drop(store);
    let store = RedbStore::open(&path, Durability::Fsync).unwrap();
    all(&store).await;
    assert_eq!(value(&store, "small").await.as_deref(), Some("fits"));
}
