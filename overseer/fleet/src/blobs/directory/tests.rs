use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::blobs::contract::{self, Subject};

fn subject(durability: Durability) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let blobs = DirectoryBlobs::open_with(directory.path().join("blobs"), durability).unwrap();
    let place = blobs.place.clone();
    Subject {
        blobs: Arc::new(blobs),
        damage: Some(Box::new(move |digest| {
            let path = place.path_of(digest).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        })),
        keep: Box::new(directory),
    }
}

fn reader(bytes: &[u8]) -> Reader {
    Box::pin(io::Cursor::new(bytes.to_vec()))
}

fn unfinished(directory: &Path) -> usize {
    fs::read_dir(directory.join(NEW)).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_what_all_blobs_do() {
    contract::run(async || subject(Durability::Ephemeral)).await;
    contract::run(async || subject(Durability::Fsync)).await;
}

#[tokio::test]
async fn nothing_unfinished_stays_behind() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = DirectoryBlobs::open(directory.path()).unwrap();
    let failed = blobs.put(reader(&[1; 100]), 10).await;
    assert!(matches!(failed, Err(BlobError::TooLarge { .. })));
    assert!(blobs.put_file(Path::new("/none")).await.is_err());
    assert_eq!(unfinished(directory.path()), 0);
    // As a process that was killed leaves it.
    fs::write(directory.path().join("new/half"), "half").unwrap();
    let second = DirectoryBlobs::open(directory.path()).unwrap();
    assert_eq!(unfinished(directory.path()), 1, "it may be of the one that is still open");
    drop((blobs, second));
    let blobs = DirectoryBlobs::open(directory.path()).unwrap();
    assert_eq!(unfinished(directory.path()), 0);
    assert_eq!(blobs.list().await.unwrap(), []);
}

/// Never comes to its end.
struct Endless;

impl tokio::io::AsyncRead for Endless {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        buffer.put_slice(&vec![7; buffer.remaining()]);
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_put_that_nobody_waits_for_any_more_stops_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = DirectoryBlobs::open(directory.path()).unwrap();
    let put = blobs.put(Box::pin(Endless), u64::MAX);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), put).await.is_err());
    // What is being written when it is dropped is still written, then all is removed.
    tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while unfinished(directory.path()) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(blobs.list().await.unwrap(), []);
}

#[tokio::test]
async fn blobs_are_private_and_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/blobs");
    let info = DirectoryBlobs::open(&path).unwrap().put(reader(b"x"), 1).await.unwrap();
    let blobs = DirectoryBlobs::open(&path).unwrap();
    assert_eq!(blobs.list().await.unwrap()[0].info, info);
    let file = blobs.place.path_of(&info.digest).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for directory in file.ancestors().skip(1).take(4) {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
    }
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for bad in [file.join("blobs"), file, "/proc/none".into()] {
        let error = DirectoryBlobs::open(&bad).unwrap_err().to_string();
        assert!(error.contains(&bad.display().to_string()), "{error}");
    }
}

const LIMITED: &str = "OVERSEER_TEST_FILE_LIMIT";

/// The kernel refuses to let a file grow, as a full disk does: the test runs itself under a limit.
#[tokio::test]
async fn a_disk_without_room_is_said_with_its_place_and_nothing_is_left() {
    let Ok(directory) = std::env::var(LIMITED) else {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"trap "" XFSZ; ulimit -f 256; exec "$0" "$@""#;
        let name = "blobs::directory::tests::a_disk_without_room_is_said_with_its_place_and_nothing_is_left";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(LIMITED, directory.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    };
    let blobs = DirectoryBlobs::open(&directory).unwrap();
    let failed = blobs.put(reader(&vec![1; 2_000_000]), u64::MAX).await.unwrap_err();
    assert!(matches!(&failed, BlobError::Io { place, .. } if *place == directory), "{failed}");
    assert_eq!(unfinished(Path::new(&directory)), 0);
    assert_eq!(blobs.list().await.unwrap(), []);
    blobs.put(reader(&[1; 1000]), u64::MAX).await.unwrap();
}
