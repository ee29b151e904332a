//! What every [`Blobs`] must do, as a suite that takes any of them. For tests: it panics with
//! what was wrong.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{BlobError, BlobInfo, Blobs, Reader};

/// Changes the kept bytes of a blob behind the back of its [`Blobs`].
pub type Damage = Box<dyn Fn(&str) + Send + Sync>;

/// An empty place for blobs to be tested.
pub struct Subject {
    /// The blobs.
    pub blobs: Arc<dyn Blobs>,
    /// Where a test can do that.
    pub damage: Option<Damage>,
    /// What must live as long as the blobs, such as their directory.
    pub keep: Box<dyn std::any::Any + Send + Sync>,
}

/// Runs the whole suite; `make` gives a new empty place each time.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Subject>,
{
    bytes_are_read_back(&make().await).await;
    the_same_bytes_are_one_blob(&make().await).await;
    a_limit_is_kept(&make().await).await;
    what_fails_leaves_nothing(&make().await).await;
    a_dropped_put_leaves_nothing(&make().await).await;
    files_are_kept(&make().await).await;
    what_is_put_again_stays(&make().await).await;
    bad_digests_are_refused(&make().await).await;
    damage_is_found(&make().await).await;
}

const NO_LIMIT: u64 = u64::MAX;

fn reader(bytes: Vec<u8>) -> Reader {
    Box::pin(io::Cursor::new(bytes))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

async fn read(blobs: &dyn Blobs, digest: &str) -> io::Result<Vec<u8>> {
    let (info, mut reader) = blobs.get(digest).await.unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    assert_eq!(info.size, bytes.len() as u64);
    Ok(bytes)
}

async fn bytes_are_read_back(subject: &Subject) {
    let blobs = &*subject.blobs;
    assert_eq!(blobs.list().await.unwrap(), []);
    let mut all = Vec::new();
    for len in [0, 1, 4096, 256 * 1024, 256 * 1024 + 1, 3_000_000] {
        let bytes = pattern(len);
        let info = blobs.put(reader(bytes.clone()), NO_LIMIT).await.unwrap();
        assert_eq!(info, BlobInfo { digest: digest(&bytes), size: len as u64 });
        assert_eq!(blobs.stat(&info.digest).await.unwrap(), Some(info.clone()));
        assert_eq!(read(blobs, &info.digest).await.unwrap(), bytes);
        all.push(info);
    }
    all.sort_by(|a, b| a.digest.cmp(&b.digest));
    assert_eq!(listed(blobs).await, all);
    let gone = &all[2].digest;
    blobs.remove(gone).await.unwrap();
    blobs.remove(gone).await.unwrap();
    assert_eq!(blobs.stat(gone).await.unwrap(), None);
    assert!(matches!(blobs.get(gone).await, Err(BlobError::Missing(d)) if d == *gone));
    assert_eq!(blobs.list().await.unwrap().len(), all.len() - 1);
}

async fn listed(blobs: &dyn Blobs) -> Vec<BlobInfo> {
    blobs.list().await.unwrap().into_iter().map(|listed| listed.info).collect()
}

async fn what_is_put_again_stays(subject: &Subject) {
    let blobs = &*subject.blobs;
    let bytes = pattern(100);
    let digest = blobs.put(reader(bytes.clone()), NO_LIMIT).await.unwrap().digest;
    let first = blobs.list().await.unwrap().remove(0).put_at;
    loop {
        blobs.put(reader(bytes.clone()), NO_LIMIT).await.unwrap();
        let again = blobs.list().await.unwrap().remove(0).put_at;
        // Where times are coarse it takes some puts.
        if again != first {
            assert!(!blobs.remove_unless_put(&digest, first).await.unwrap());
            assert_eq!(read(blobs, &digest).await.unwrap(), bytes);
            assert!(blobs.remove_unless_put(&digest, again).await.unwrap());
            assert!(!blobs.remove_unless_put(&digest, again).await.unwrap(), "it is gone");
            return assert_eq!(blobs.list().await.unwrap(), []);
        }
    }
}

async fn the_same_bytes_are_one_blob(subject: &Subject) {
    let bytes = pattern(700_000);
    let puts: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, bytes) = (subject.blobs.clone(), bytes.clone());
            tokio::spawn(async move { blobs.put(reader(bytes), NO_LIMIT).await.unwrap() })
        })
        .collect();
    for put in puts {
        assert_eq!(put.await.unwrap().digest, digest(&bytes));
    }
    assert_eq!(subject.blobs.list().await.unwrap().len(), 1);
    assert_eq!(read(&*subject.blobs, &digest(&bytes)).await.unwrap(), bytes);
}

async fn a_limit_is_kept(subject: &Subject) {
    let blobs = &*subject.blobs;
    for len in [1, 300_000, 600_000] {
        let over = blobs.put(reader(pattern(len)), len as u64 - 1).await;
        assert!(matches!(over, Err(BlobError::TooLarge { limit }) if limit == len as u64 - 1));
    }
    assert_eq!(blobs.list().await.unwrap(), []);
    blobs.put(reader(pattern(300_000)), 300_000).await.unwrap();
    blobs.put(reader(vec![]), 0).await.unwrap();
}

/// Gives some bytes, then fails or never comes back.
struct Broken {
    bytes: usize,
    hangs: bool,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.bytes.min(buffer.remaining());
        if count > 0 {
            self.bytes -= count;
            buffer.put_slice(&vec![7; count]);
            return Poll::Ready(Ok(()));
        }
        if self.hangs { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) }
    }
}

async fn what_fails_leaves_nothing(subject: &Subject) {
    for bytes in [0, 1000, 1_000_000] {
        let failed = subject.blobs.put(Box::pin(Broken { bytes, hangs: false }), NO_LIMIT).await;
        assert!(matches!(failed, Err(BlobError::Source { .. })), "{failed:?}");
    }
    assert_eq!(subject.blobs.list().await.unwrap(), []);
}

async fn a_dropped_put_leaves_nothing(subject: &Subject) {
    let put = subject.blobs.put(Box::pin(Broken { bytes: 600_000, hangs: true }), NO_LIMIT);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), put).await.is_err());
    assert_eq!(subject.blobs.list().await.unwrap(), []);
}

async fn files_are_kept(subject: &Subject) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let bytes = pattern(1_000_000);
    std::fs::write(&path, &bytes).unwrap();
    let info = subject.blobs.put_file(&path).await.unwrap();
    assert_eq!(info, BlobInfo { digest: digest(&bytes), size: 1_000_000 });
    assert_eq!(read(&*subject.blobs, &info.digest).await.unwrap(), bytes);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file stays");
    for bad in [directory.path().to_owned(), directory.path().join("none"), "/dev/zero".into()] {
        let refused = subject.blobs.put_file(&bad).await.unwrap_err();
        assert!(matches!(&refused, BlobError::Source { place, .. } if *place == bad.display().to_string()));
    }
}

async fn bad_digests_are_refused(subject: &Subject) {
    let blobs = &*subject.blobs;
    let upper = "A".repeat(64);
    for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &upper, "../../../etc/passwd"] {
        assert!(matches!(blobs.get(bad).await, Err(BlobError::BadDigest(_))), "{bad}");
        assert!(matches!(blobs.stat(bad).await, Err(BlobError::BadDigest(_))), "{bad}");
        assert!(matches!(blobs.remove(bad).await, Err(BlobError::BadDigest(_))), "{bad}");
    }
    let missing = "a".repeat(64);
    assert!(matches!(blobs.get(&missing).await, Err(BlobError::Missing(_))));
}

async fn damage_is_found(subject: &Subject) {
    let Some(damage) = &subject.damage else { return };
    let bytes = pattern(400_000);
    let info = subject.blobs.put(reader(bytes.clone()), NO_LIMIT).await.unwrap();
    damage(&info.digest);
    let (_, mut reading) = subject.blobs.get(&info.digest).await.unwrap();
    let error = reading.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains(&info.digest), "{error}");
    // Storing the bytes again heals it.
    subject.blobs.put(reader(bytes.clone()), NO_LIMIT).await.unwrap();
    assert_eq!(read(&*subject.blobs, &info.digest).await.unwrap(), bytes);
}
