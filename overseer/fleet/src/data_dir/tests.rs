use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::blobs::Blobs;
use crate::store::{Store, Transaction};

fn homes(base: &Path) -> Vec<PathBuf> {
    let home = base.join(format!("overseer-{}", rustix::process::geteuid().as_raw()));
    let entries = fs::read_dir(home).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.is_dir()).collect()
}

#[tokio::test]
async fn what_is_stored_is_there_the_next_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/data");
    let data = DataDir::open(&path).unwrap();
    data.store().transact(Transaction::new().put("k", "v")).await.unwrap();
    assert!(!data.is_ephemeral());
    let second = DataDir::open(&path).unwrap_err();
    assert!(matches!(second, DataDirError::Store(StoreError::InUse { .. })), "{second}");
    drop(data);
    let data = DataDir::open(&path).unwrap();
    assert!(data.store().get("k").await.unwrap().is_some());
    for (name, expected) in [("", 0o700), ("blobs", 0o700), ("task-blobs", 0o700), ("store.redb", 0o600)] {
        let path = path.join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, expected, "{}", path.display());
    }
}

#[test]
fn a_directory_that_is_not_safe_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    fs::create_dir(&path).unwrap();
    for mode in [0o777, 0o770, 0o720, 0o702, 0o1777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::OpenToOthers { mode: m, .. } if m == mode), "{error}");
        assert!(error.to_string().contains("chmod 700"), "{error}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for bad in [file.clone(), file.join("below")] {
        assert!(matches!(DataDir::open(&bad), Err(DataDirError::NotADirectory { .. })));
    }
    assert!(matches!(DataDir::open("/proc/none"), Err(DataDirError::Io { .. })));
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::ForeignOwner { owner: 1, us: 0, .. })));
    } else {
        assert!(matches!(DataDir::open("/usr"), Err(DataDirError::ForeignOwner { owner: 0, .. })));
    }
}

#[test]
fn one_that_has_lost_its_store_is_refused_and_left_alone() {
    for part in ["task-blobs", "blobs", "logs", "payloads"] {
        let directory = tempfile::tempdir().unwrap();
        drop(DataDir::open(directory.path()).unwrap());
        fs::remove_file(directory.path().join("store.redb")).unwrap();
        // Nothing but directories is nothing.
        fs::create_dir_all(directory.path().join(part).join("deep")).unwrap();
        drop(DataDir::open(directory.path()).unwrap());
        fs::remove_file(directory.path().join("store.redb")).unwrap();
        fs::create_dir_all(directory.path().join(part).join("deep")).unwrap();
        fs::write(directory.path().join(part).join("deep/kept"), "x").unwrap();
        let lost = DataDir::open(directory.path()).unwrap_err();
        assert_eq!(lost.code(), "data_dir.store_lost", "{lost}");
        assert!(lost.to_string().contains(&format!("{part}/")), "{lost}");
        assert!(!directory.path().join("store.redb").exists());
    }
}

#[tokio::test]
async fn an_ephemeral_one_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let data = DataDir::ephemeral_in(base.path()).unwrap();
    data.store().transact(Transaction::new().put("k", "v")).await.unwrap();
    let other = DataDir::ephemeral_in(base.path()).unwrap();
    assert!(data.is_ephemeral());
    assert_ne!(data.path(), other.path(), "each process has its own");
    assert!(data.store().get("k").await.unwrap().is_some(), "and is not swept by another");
    assert_eq!(homes(base.path()).len(), 2);
    let path = data.path().to_owned();
    drop(data);
    assert!(!path.exists() && other.path().exists());
}

const BASE: &str = "OVERSEER_TEST_EPHEMERAL_BASE";

/// Not a test by itself: the process that is killed.
#[test]
fn child_that_holds_an_ephemeral_directory() {
    let Some(base) = std::env::var_os(BASE) else { return };
    let data = DataDir::ephemeral_in(Path::new(&base)).unwrap();
    println!("\nholds {}", data.path().display());
    // Until it is killed.
    let _ = io::stdin().read_line(&mut String::new());
}

#[test]
fn what_a_killed_process_left_is_gone_after_the_next_start() {
    let base = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "data_dir::tests::child_that_holds_an_ephemeral_directory", "--nocapture"])
        .env(BASE, base.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("holds ").map(PathBuf::from));
    let left = told.next().unwrap();
    drop(DataDir::ephemeral_in(base.path()).unwrap());
    assert!(left.join("store.redb").exists(), "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left.exists());
    let data = DataDir::ephemeral_in(base.path()).unwrap();
    assert!(!left.exists());
    assert_eq!(homes(base.path()), [data.path()]);
}

#[test]
fn a_temporary_directory_of_another_user_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let home = base.path().join(format!("overseer-{}", rustix::process::geteuid().as_raw()));
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(DataDir::ephemeral_in(base.path()), Err(DataDirError::OpenToOthers { .. })));
}

#[tokio::test]
async fn blobs_of_tasks_are_found_that_were_kept_with_all_others() {
    let directory = tempfile::tempdir().unwrap();
    let data = DataDir::open(directory.path()).unwrap();
    let put = data.task_blobs().put(Box::pin(&b"result"[..]), 100).await.unwrap();
    drop(data);
    // As it was before they had a place of their own.
    fs::remove_dir_all(directory.path().join(BLOBS)).unwrap();
    fs::rename(directory.path().join(TASK_BLOBS), directory.path().join(BLOBS)).unwrap();
    for _ in 0..2 {
        let data = DataDir::open(directory.path()).unwrap();
        assert_eq!(data.task_blobs().stat(&put.digest).await.unwrap(), Some(put.clone()));
        assert_eq!(data.blobs().list().await.unwrap(), []);
    }
}
