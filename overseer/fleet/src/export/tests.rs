use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::authority::Authority;
use crate::blobs::Blobs;
use crate::check::{check, tests::filled};
use crate::data_dir::DataDir;
use crate::store::{Store, Transaction};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Keys and values of a directory, its blobs, and the certificate of its authority.
fn contents(data: &DataDir) -> (Vec<(String, bytes::Bytes)>, Vec<crate::blobs::BlobInfo>, String) {
    let mut entries = Vec::new();
    let _ = data.store().each_entry(|entry| {
        entries.push((entry.key, entry.value));
        Ok::<_, ()>(())
    });
    let authority = block_on(Authority::load_or_create(&*data.store(), SystemTime::now())).unwrap();
    let listed = [data.task_blobs(), data.blobs()].map(|blobs| block_on(blobs.list()).unwrap());
    let blobs = listed.concat().into_iter().map(|listed| listed.info).collect();
    (entries, blobs, authority.certificate().to_owned())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A directory with an export of something of everything.
fn exported() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data = block_on(filled(&directory.path().join("data")));
    let file = directory.path().join("all.export");
    export(&data, &file, true, |_| {}).unwrap();
    (directory, file)
}

#[test]
fn what_is_exported_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("all.export");
    let data = block_on(filled(&directory.path().join("data")));
    let store = data.store();
    for n in 0..300 {
        let large = vec![b'v'; if n % 100 == 0 { 1_000_000 } else { n }];
        block_on(store.transact(Transaction::new().put(format!("zz/{n:03}"), large))).unwrap();
    }
    block_on(data.blobs().put(Box::pin(&b"artifact"[..]), 100)).unwrap();
    let lease = block_on(store.grant(std::time::Duration::from_secs(100))).unwrap();
    block_on(store.transact(Transaction::new().put_leased("zz/leased", "x", lease))).unwrap();
    let written = export(&data, &file, true, |_| {}).unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600,
        "it has a private key in it"
    );
    assert_eq!((written.leased, written.blobs, written.bytes), (1, 2, fs::metadata(&file).unwrap().len()));
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    block_on(store.revoke(lease)).unwrap();
    for place in [empty, directory.path().join("deeper/new")] {
        let read = import(&file, &place, |_| {}).unwrap();
        assert_eq!((read.entries, read.blobs, read.bytes), (written.entries, 2, written.bytes));
        let imported = DataDir::open(&place).unwrap();
        assert_eq!(contents(&imported), contents(&data));
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        block_on(async {
            let extra = Transaction::new();
            let extra = (0..100).fold(extra, |t, n| t.delete(format!("zz/{n:03}")));
            imported.store().transact(extra).await.unwrap();
            let report = check(&imported, &[], true, |_| {}).await.unwrap();
            assert_eq!(report.found, 200, "only what the test has made up: {:?}", &report.problems[0]);
        });
    }
    let again = export(&data, &file, false, |_| {}).unwrap_err();
    assert!(matches!(again, ExportError::Exists { .. }), "{again}");
    assert_eq!(names(directory.path()), ["all.export", "data", "deeper", "empty"], "nothing is left beside");
}

#[test]
fn any_changed_byte_and_any_missing_end_is_refused_and_nothing_is_made() {
    let (directory, file) = exported();
    let good = fs::read(&file).unwrap();
    let bad = directory.path().join("bad.export");
    let place = directory.path().join("new");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&bad, bytes).unwrap();
        let error = import(&bad, &place, |_| {}).expect_err(what);
        assert!(error.to_string().contains("bad.export"), "{error}");
        assert_eq!(names(directory.path()), ["all.export", "bad.export", "data"], "{what}");
        error
    };
    for at in (0..good.len()).step_by(1 + good.len() / 200) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x11;
        refused(&bytes, &format!("byte {at}"));
    }
    for length in (0..good.len()).step_by(1 + good.len() / 100) {
        let error = refused(&good[..length], &format!("{length} bytes"));
        let expected = if length == 0 { "export.not_one" } else { "export.cut_short" };
        assert_eq!(error.code(), expected, "{length} bytes: {error}");
    }
    assert_eq!(
        refused(b"something else altogether, and long enough to be one", "text").code(),
        "export.not_one"
    );
    assert_eq!(refused(&[&good[..], b"more"].concat(), "more behind it").code(), "export.cut_short");
    for (at, newer) in [(16, &3u32.to_le_bytes()[..]), (20, &9u64.to_le_bytes()[..])] {
        let mut bytes = good.clone();
        bytes[at..at + newer.len()].copy_from_slice(newer);
        assert_eq!(refused(&bytes, "newer").code(), "export.newer");
    }
}

#[test]
fn a_place_that_is_taken_is_not_touched() {
    let (directory, file) = exported();
    let data = directory.path().join("data");
    let before = names(&data);
    assert_eq!(import(&file, &data, |_| {}).unwrap_err().code(), "export.exists");
    assert_eq!(import(&file, &file, |_| {}).unwrap_err().code(), "export.exists");
    assert_eq!(names(&data), before);
    assert_eq!(
        import(&data.join("none"), &directory.path().join("n"), |_| {}).unwrap_err().code(),
        "export.io"
    );
    let nowhere = Path::new("/proc/nowhere/file");
    let open = DataDir::open(&data).unwrap();
    assert_eq!(export(&open, nowhere, false, |_| {}).unwrap_err().code(), "export.io");
}
