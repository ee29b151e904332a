//! A package from anyone. By the first byte of the input:
//!
//! - 0: the rest is a package file, as it is;
//! - 1: the rest is a tar whose index, digests and signature are made right, so that what checks
//!   the tar itself is reached;
//! - 2: the rest is a tar's entries, one byte of kind, one of name length, a name, a target: the
//!   fuzzer need not guess checksums to play with paths and links.
//!
//! Whatever it is, nothing is written outside of the target, and nothing at all if it is refused.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use overseer_release::{
    Digest, INDEX_FORMAT, Index, IndexChunk, MIN_CHUNK, Manifest, Package, ReleaseBuilder, SigningKey,
    StoredChunk, Trust, inspect, unpack, verify,
};
use tar::{EntryType, Header};

#[path = "../seeds.rs"]
mod seeds;

const PACKAGE: u8 = 0;
const TAR: u8 = 1;
const ENTRIES: u8 = 2;
/// Enough for any path check, and quick to write.
const MAX_SIZE: u64 = 1 << 20;

fuzz_target!(init: seeds::write(make_seeds()), |data: &[u8]| {
    thread_local!(static DIR: RefCell<tempfile::TempDir> = RefCell::new(new_dir()));
    let Some((kind, rest)) = data.split_first() else { return };
    DIR.with_borrow_mut(|dir| {
        let inner = dir.path().join("inner");
        let target = inner.join("release");
        let good = match *kind {
            PACKAGE => open(rest, dir.path(), &target),
            TAR => unpack_tar(rest, &target),
            ENTRIES => unpack_tar(&tar_of(rest), &target),
            _ => return,
        };
        assert_eq!(good, target.exists(), "there if it is good, and only then");
        let left = fs::read_dir(&inner).expect("inner").count();
        assert_eq!(left, usize::from(good), "nothing is left beside the target");
        for entry in fs::read_dir(dir.path()).expect("dir") {
            let name = entry.expect("entry").file_name();
            assert!(name == "inner" || name == "package", "{name:?} was written outside of the target");
        }
        if good {
            check_inside(&target, &target.canonicalize().expect("target"));
            fs::remove_dir_all(&target).expect("target can be removed");
        }
    });
});

fn new_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory to work in");
    fs::create_dir(dir.path().join("inner")).expect("a directory in it");
    dir
}

fn open(bytes: &[u8], dir: &Path, target: &Path) -> bool {
    let path = dir.join("package");
    fs::write(&path, bytes).expect("the package is written");
    let _ = inspect(&path);
    let Ok(package) = Package::open(&path) else { return false };
    let trust = Trust { max_size: MAX_SIZE, max_files: 1000, ..Trust::unsigned() };
    package.unpack(&trust, target).is_ok()
}

fn unpack_tar(tar: &[u8], target: &Path) -> bool {
    let key = SigningKey::from_seed(&[7; 32]);
    let chunks: Vec<_> = tar.chunks(MIN_CHUNK).collect();
    let index = Index {
        format: INDEX_FORMAT,
        manifest: manifest(),
        size: tar.len() as u64,
        digest: Digest::of(tar),
        chunks: chunks
            .iter()
            .map(|raw| IndexChunk { digest: Digest::of(raw), size: raw.len() as u32 })
            .collect(),
    };
    let bytes = index.to_bytes();
    let trust = Trust { max_size: MAX_SIZE, max_files: 1000, ..Trust::keys(vec![key.public()]) };
    let Ok(verified) = verify(&bytes, &[key.sign(&bytes)], &trust) else { return false };
    unpack(&verified, |at: usize| Ok(StoredChunk { zstd: false, data: chunks[at].to_vec() }), target).is_ok()
}

/// Everything that can be reached from the target lies in it.
fn check_inside(dir: &Path, root: &Path) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        if let Ok(real) = entry.path().canonicalize() {
            assert!(real.starts_with(root), "{} leads to {}", entry.path().display(), real.display());
        }
        if entry.file_type().expect("a type").is_dir() {
            check_inside(&entry.path(), root);
        }
    }
}

fn manifest() -> Manifest {
    Manifest::plugin("fuzz", semver::Version::new(1, 0, 0), "libfuzz.so")
}

fn tar_of(mut rest: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let text = manifest().to_toml().expect("the manifest is good");
    append(&mut tar, EntryType::Regular, b"libfuzz.so", b"", b"library");
    append(&mut tar, EntryType::Regular, b"release.toml", b"", text.as_bytes());
    while let Some((kind, name, link)) = next_entry(&mut rest) {
        let kind = match kind {
            b'f' => EntryType::Regular,
            b'd' => EntryType::Directory,
            b'l' => EntryType::Symlink,
            b'N' => EntryType::GNULongName,
            b'K' => EntryType::GNULongLink,
            other => EntryType::new(other),
        };
        let content: &[u8] = match kind {
            EntryType::Regular | EntryType::GNULongName | EntryType::GNULongLink => link,
            _ => b"",
        };
        append(&mut tar, kind, name, link, content);
    }
    tar.into_inner().expect("a tar in memory")
}

fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        *rest = left;
        Some(taken)
    };
    let head = take(3)?;
    Some((head[0], take(usize::from(head[1] % 100))?, take(usize::from(head[2] % 100))?))
}

fn append(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) {
    let mut header = Header::new_gnu();
    let gnu = header.as_gnu_mut().expect("a GNU header");
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).expect("a tar in memory");
}

fn make_seeds() -> Vec<(&'static str, Vec<u8>)> {
    if std::env::var_os("FUZZ_SEEDS").is_none() {
        return Vec::new();
    }
    let dir = tempfile::tempdir().expect("a directory to work in");
    let library = dir.path().join("libfuzz.so");
    fs::write(&library, "library").expect("a library");
    let key = SigningKey::from_seed(&[7; 32]);
    let out = dir.path().join("package");
    let packed =
        ReleaseBuilder::plugin("fuzz", "1.0.0", &library).file("a/b", &library).sign(&key).write(&out);
    let package = fs::read(packed.expect("a package").path).expect("its bytes");
    let entries = b"d\x03\x00liba\x05\x02lib/aok".as_slice();
    let links = b"d\x01\x00dl\x03\x0dd/l../libfuzz.sol\x01\x01edl\x01\x02e..f\x03\x00e/x".as_slice();
    let long = b"N\x01\x14x./aaaaaaaaaaaaaaaaaaaf\x01\x02ahi".as_slice();
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        ("package", with(PACKAGE, &package)),
        ("tar", with(TAR, &tar_of(entries))),
        ("tar_links", with(TAR, &tar_of(links))),
        ("entries", with(ENTRIES, entries)),
        ("links", with(ENTRIES, links)),
        ("long", with(ENTRIES, long)),
    ]
}
