use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::tables::SCHEMA;
use super::*;

fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(path, Durability::Fsync)
}

fn refusal(path: &Path) -> StoreError {
    let error = open(path).expect_err("it was opened");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    error
}

async fn filled(path: &Path) -> Vec<u8> {
    let store = ephemeral(path);
    for n in 0..200 {
        put(&store, &format!("key/{n}"), &"value ".repeat(20)).await;
    }
    drop(store);
    fs::read(path).unwrap()
}

#[tokio::test]
async fn a_second_opener_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let first = open(&path).unwrap();
    assert!(matches!(refusal(&path), StoreError::InUse { .. }));
    put(&first, "a", "1").await;
    drop(first);
    assert_eq!(value(&open(&path).unwrap(), "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn one_that_is_let_go_in_a_moment_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let first = open(&path).unwrap();
    // Who holds the lock of a killed process is such another description of the file.
    let (begun, begins) = std::sync::mpsc::channel();
    let second = std::thread::spawn({
        let path = path.clone();
        move || {
            begun.send(()).unwrap();
            open(&path).map(drop)
        }
    });
    begins.recv().unwrap();
    drop(first);
    second.join().unwrap().unwrap();
}

#[tokio::test]
async fn the_file_and_its_directory_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/store.redb");
    drop(open(&path).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"], "nothing else is left");
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let good = filled(&path).await;
    let text = b"this is no store of ours\n".repeat(1000);
    let truncated = |n: usize| good[..n].to_vec();
    let cases = [
        ("empty", vec![]),
        ("one byte", truncated(1)),
        ("a header only", truncated(512)),
        ("half", truncated(good.len() / 2)),
        ("zeros", vec![0; good.len()]),
        ("zeros after the header", [&good[..4096], &vec![0; good.len() - 4096]].concat()),
        ("a text", text),
    ];
    for (what, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}");
    }
    fs::write(&path, &good).unwrap();
    assert!(value(&open(&path).unwrap(), "key/7").await.is_some());
}

#[tokio::test]
async fn a_flipped_byte_is_found_or_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let good = filled(&path).await;
    let mut found = 0;
    for place in (0..good.len()).step_by(good.len() / 60) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x5a;
        fs::write(&path, &bytes).unwrap();
        match open(&path) {
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged { .. }), "byte {place}: {error}");
                found += 1;
            }
            Ok(store) => {
                let (entries, _) = store.range("key/", None, 1000).await.unwrap();
                assert_eq!(entries.len(), 200, "byte {place}");
                assert!(entries.iter().all(|e| e.value == "value ".repeat(20)), "byte {place}");
            }
        }
    }
    assert!(found > 0);
}

#[tokio::test]
async fn a_file_of_a_newer_overseer_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path).unwrap();
    put(&store, "a", "1").await;
    set_schema(&store, SCHEMA + 1);
    drop(store);
    let error = refusal(&path);
    let StoreError::NewerSchema { found, known, .. } = error else { panic!("{error}") };
    assert_eq!((found, known), (SCHEMA + 1, SCHEMA));
}

#[test]
fn a_database_of_another_program_is_damage_to_us() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let database = ::redb::Database::create(&path).unwrap();
    drop(database);
    assert!(matches!(refusal(&path), StoreError::Damaged { .. }));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.join("store.redb"), "/proc/none/store.redb".into()] {
        assert!(matches!(refusal(&path), StoreError::NotWritable { .. }), "{}", path.display());
    }
    // No room and no permission would help here.
    assert!(matches!(refusal(directory.path()), StoreError::Damaged { .. }));
    if rustix::process::geteuid().is_root() {
        // Modes do not bind root.
        return;
    }
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    assert!(matches!(refusal(&closed.join("store.redb")), StoreError::NotWritable { .. }));
}

fn set_schema(store: &RedbStore, schema: u64) {
    let database = store.shared.database.read();
    let write = database.as_ref().unwrap().begin_write().unwrap();
    let mut tables = tables::Tables::open(&write).unwrap();
    tables.set_schema(schema).unwrap();
    drop(tables);
    write.commit().unwrap();
}
