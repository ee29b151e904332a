//! Every release that must not run is refused by name, and leaves nothing behind.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::*;
use overseer_release::{
    ChunkSource, Digest, Index, IndexChunk, MAX_CHUNK, Refused, SigningKey, SourceError, StoredChunk, Trust,
    UnpackError, Unsigned, unpack, verify,
};
use proptest::prelude::*;
use tar::EntryType;

/// The code of the refusal; the target's directory must be as empty as before.
fn refusal(tar: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = unpack_tar(tar, &dir.path().join("release")).unwrap_err();
    assert_eq!(names(dir.path()), [""; 0], "{error}");
    error.code().to_owned()
}

#[test]
fn paths_that_leave_the_archive_are_refused() {
    for (name, code) in [
        ("/etc/passwd", "path_absolute"),
        ("../evil", "path_parent"),
        ("lib/../../evil", "path_parent"),
        ("..", "path_parent"),
        ("./x", "path_name"),
        ("lib//x", "path_name"),
        ("x/", "path_name"),
        ("a\nb", "path_name"),
        ("a\u{1b}[2J", "path_name"),
        ("", "path_name"),
    ] {
        assert_eq!(
            refusal(&TarMaker::good().file(name, b"x").bytes()),
            format!("release.{code}"),
            "{name:?}"
        );
    }
    let not_text = TarMaker::good().entry(EntryType::Regular, b"a\xff", b"", b"").bytes();
    assert_eq!(refusal(&not_text), "release.path_name");
}

#[test]
fn names_too_long_for_any_file_system_are_refused() {
    let name = [b"n".repeat(256), vec![0]].concat();
    let long = TarMaker::good().entry(EntryType::GNULongName, b"././@LongLink", b"", &name).file("n", b"");
    assert_eq!(refusal(&long.bytes()), "release.path_too_long");
    let path = [b"d/".repeat(1 << 20), b"x\0".to_vec()].concat();
    let long = TarMaker::good().entry(EntryType::GNULongName, b"././@LongLink", b"", &path).file("n", b"");
    assert_eq!(refusal(&long.bytes()), "release.path_too_long");
}

#[test]
fn a_long_name_must_belong_to_one_entry() {
    let long = |tar: TarMaker| tar.entry(EntryType::GNULongName, b"././@LongLink", b"", b"a\0");
    assert_eq!(refusal(&long(TarMaker::good()).bytes()), "release.archive_unreadable");
    let twice = long(long(TarMaker::good())).file("a", b"");
    assert_eq!(refusal(&twice.bytes()), "release.archive_unreadable");
}

#[test]
fn links_that_leave_the_archive_are_refused() {
    for target in ["/etc", "..", "../x", "a/../..", "", "x/../../../etc/passwd"] {
        let tar = TarMaker::good().link("link", target).bytes();
        assert_eq!(refusal(&tar), "release.link_outside", "{target}");
    }
    let hard = TarMaker::good().entry(EntryType::Link, b"link", b"libhello.so", b"").bytes();
    assert_eq!(refusal(&hard), "release.hard_link");
    let outside = TarMaker::good().entry(EntryType::Link, b"link", b"/etc/passwd", b"").bytes();
    assert_eq!(refusal(&outside), "release.hard_link");
    let not_text = TarMaker::good().entry(EntryType::Symlink, b"link", b"a\xff", b"").bytes();
    assert_eq!(refusal(&not_text), "release.link_outside");
}

#[test]
fn nothing_is_written_through_a_link_or_a_file() {
    let through = TarMaker::good().directory("real").link("link", "real").file("link/x", b"x").bytes();
    assert_eq!(refusal(&through), "release.through_link");
    let deeper = TarMaker::good().directory("real").link("link", "real").file("link/a/x", b"x").bytes();
    assert_eq!(refusal(&deeper), "release.through_link");
    let below_file = TarMaker::good().file("a", b"").file("a/b", b"").bytes();
    assert_eq!(refusal(&below_file), "release.through_link");
    let replaced = TarMaker::good().directory("real").link("real", "..").bytes();
    assert_ne!(refusal(&replaced), "");
    let no_directory = TarMaker::good().file("lib/x", b"").bytes();
    assert_eq!(refusal(&no_directory), "release.no_directory");
    let gap = TarMaker::good().directory("lib").file("lib/a/x", b"").bytes();
    assert_eq!(refusal(&gap), "release.no_directory");
}

#[test]
fn devices_and_the_like_are_refused() {
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::new(b'V'),
    ] {
        let tar = TarMaker::good().entry(kind, b"x", b"", b"").bytes();
        assert_eq!(refusal(&tar), "release.special_file", "{kind:?}");
    }
}

#[test]
fn the_same_path_twice_is_refused() {
    for tar in [
        TarMaker::good().file("libhello.so", b"other"),
        TarMaker::good().directory("d").directory("d"),
        TarMaker::good().directory("d").link("d", "libhello.so"),
    ] {
        assert_eq!(refusal(&tar.bytes()), "release.duplicate");
    }
}

#[test]
fn the_manifest_must_be_there_and_say_what_the_index_says() {
    let without = TarMaker::empty().file("libhello.so", b"library").bytes();
    assert_eq!(refusal(&without), "release.manifest_missing");
    let directory = TarMaker::empty().file("libhello.so", b"").directory("release.toml").bytes();
    assert_eq!(refusal(&directory), "release.manifest_missing");
    let mut other = manifest();
    other.environment.insert("LD_PRELOAD".into(), "/tmp/evil.so".into());
    for text in [other.to_toml().unwrap(), "no toml".into(), " ".repeat(1 << 17)] {
        let tar = TarMaker::empty().file("libhello.so", b"").file("release.toml", text.as_bytes()).bytes();
        assert_eq!(refusal(&tar), "release.manifest_differs", "{text:.20}");
    }
    let text = manifest().to_toml().unwrap();
    let missing = TarMaker::empty().file("release.toml", text.as_bytes());
    assert_eq!(refusal(&missing.bytes()), "release.entry_missing");
    let link =
        TarMaker::empty().file("x", b"").link("libhello.so", "x").file("release.toml", text.as_bytes());
    assert_eq!(refusal(&link.bytes()), "release.entry_not_file");
}

#[test]
fn an_archive_that_is_cut_or_goes_on_is_refused() {
    let good = TarMaker::good().bytes();
    let end = good.len() - 1024;
    for cut in [0, 1, 511, 512, 600, 1024, 1100, end - 1, end, end + 1, end + 512, good.len() - 1] {
        assert_eq!(refusal(&good[..cut]), "release.archive_unreadable", "{cut}");
    }
    for garbage in [&[0][..], &[1], &[0; 512], b"payload"] {
        assert_eq!(refusal(&[&good, garbage].concat()), "release.trailing_data");
    }
    let hidden = [&good[..end + 512], TarMaker::empty().file("x", b"").bytes().as_slice()].concat();
    assert_eq!(refusal(&hidden), "release.trailing_data");
    let endless = TarMaker::good().sized_entry(EntryType::Regular, b"x", b"", b"", 10 << 30).bytes();
    assert_eq!(refusal(&endless), "release.archive_unreadable");
    let overflow = TarMaker::good().sized_entry(EntryType::Regular, b"x", b"", b"", u64::MAX).bytes();
    assert_eq!(refusal(&overflow), "release.archive_unreadable");
    let content = TarMaker::good().entry(EntryType::Directory, b"d", b"", b"content").bytes();
    assert_eq!(refusal(&content), "release.archive_unreadable");
}

#[test]
fn setuid_and_other_bits_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("release");
    let tar = TarMaker::good().with_mode("run", 0o7777).with_mode("read", 0o6666).bytes();
    unpack_tar(&tar, &target).unwrap();
    let mode = |name: &str| target.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("run") & !0o755, 0);
    assert_eq!(mode("run") & 0o700, 0o700);
    assert_eq!(mode("read") & !0o644, 0);
    assert_eq!(mode("read") & 0o600, 0o600);
}

#[test]
fn ten_gigabytes_of_zeros_are_refused_before_a_byte_is_unpacked() {
    let raw = vec![0; MAX_CHUNK];
    let chunk = IndexChunk { digest: Digest::of(&raw), size: MAX_CHUNK as u32 };
    let count = (10 << 30) / MAX_CHUNK;
    let index = Index { size: 10 << 30, chunks: vec![chunk; count], ..index_of(&TarMaker::good().bytes()) };
    let bytes = index.to_bytes();
    let refused = verify(&bytes, &[key().sign(&bytes)], &trust()).unwrap_err();
    assert_eq!(refused.code(), "release.too_large");
    assert!(refused.to_string().contains("10737418240"), "{refused}");
    // The same with a declared size that is allowed: a chunk may not grow over its own.
    let small = Index { size: 1000, chunks: vec![IndexChunk { size: 1000, ..chunk }], ..index };
    let bomb = StoredChunk { zstd: true, data: zstd_of_zeros() };
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("release");
    let error = unpack(&verified(&small, &trust()), |_| Ok(bomb.clone()), &target).unwrap_err();
    assert_eq!(error.code(), "release.chunk_unreadable");
    assert_eq!(names(dir.path()), [""; 0]);
}

fn zstd_of_zeros() -> Vec<u8> {
    let frame = zstd::bulk::compress(&vec![0; 8 << 20], 3).unwrap();
    assert!(frame.len() < 1000);
    frame
}

#[test]
fn limits_are_kept_to_the_byte_and_to_the_file() {
    let tar = TarMaker::good().bytes();
    let bytes = index_of(&tar).to_bytes();
    let signed = [key().sign(&bytes)];
    let size = tar.len() as u64;
    assert!(verify(&bytes, &signed, &Trust { max_size: size, ..trust() }).is_ok());
    let refused = verify(&bytes, &signed, &Trust { max_size: size - 1, ..trust() }).unwrap_err();
    assert_eq!(refused.code(), "release.too_large");
    let chunk = StoredChunk { zstd: false, data: tar.clone() };
    for (max_files, good) in [(2, true), (1, false), (0, false)] {
        let dir = tempfile::tempdir().unwrap();
        let verified = verified(&index_of(&tar), &Trust { max_files, ..trust() });
        let result = unpack(&verified, |_| Ok(chunk.clone()), &dir.path().join("release"));
        assert_eq!(result.is_ok(), good);
        assert!(result.is_ok_and(|()| true) || names(dir.path()).is_empty());
    }
}

#[test]
fn only_what_a_trusted_key_signed_is_taken() {
    let bytes = index_of(&TarMaker::good().bytes()).to_bytes();
    let stranger = SigningKey::from_seed(&[8; 32]);
    let (ours, theirs) = (key().sign(&bytes), stranger.sign(&bytes));
    let code = |signatures: &[_], trust: &Trust| verify(&bytes, signatures, trust).unwrap_err().code();
    assert_eq!(verify(&bytes, &[ours], &trust()).unwrap().signed_by(), Some(key().public()));
    assert_eq!(verify(&bytes, &[theirs, ours], &trust()).unwrap().signed_by(), Some(key().public()));
    assert_eq!(code(&[], &trust()), "release.signature_missing");
    assert_eq!(code(&[theirs], &trust()), "release.signature_unknown");
    let refused = verify(&bytes, &[theirs], &trust()).unwrap_err();
    assert!(refused.to_string().contains(&stranger.public().to_string()), "{refused}");
    let mut bad = ours;
    bad.signature[40] ^= 1;
    assert_eq!(code(&[bad], &trust()), "release.signature_bad");
    assert_eq!(code(&[key().sign(b"another index")], &trust()), "release.signature_bad");
    assert_eq!(code(&[theirs; 17], &trust()), "release.too_many_signatures");

    let open = Trust { unsigned: Unsigned::Allow, ..trust() };
    assert_eq!(verify(&bytes, &[], &open).unwrap().signed_by(), None);
    assert_eq!(verify(&bytes, &[theirs], &open).unwrap().signed_by(), None);
    assert_eq!(verify(&bytes, &[ours], &open).unwrap().signed_by(), Some(key().public()));
    assert_eq!(code(&[bad], &open), "release.signature_bad");
    // A signature of the bare index, without the context, is of something else.
    assert_eq!(code(&[key().sign(&bytes[1..])], &trust()), "release.signature_bad");
}

#[test]
fn a_release_for_another_machine_or_abi_is_refused() {
    let bytes = index_of(&TarMaker::good().bytes()).to_bytes();
    let signed = [key().sign(&bytes)];
    let other = Trust { target: "riscv64gc-unknown-linux-gnu".into(), ..trust() };
    let refused = verify(&bytes, &signed, &other).unwrap_err();
    assert_eq!(refused.code(), "release.target");
    assert!(refused.to_string().contains("riscv64gc"), "{refused}");
    let refused = verify(&bytes, &signed, &Trust { abi: 2, ..trust() }).unwrap_err();
    assert_eq!(refused, Refused::Abi { name: "hello".into(), found: 1, wanted: 2 });
}

#[test]
fn a_wrong_or_missing_chunk_is_named() {
    let tar = TarMaker::good().file("big", &noise(3 << 20)).bytes();
    let index = index_of(&tar);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("release");
    let chunk =
        |at: usize| StoredChunk { zstd: false, data: tar.chunks(MAX_CHUNK).nth(at).unwrap().to_vec() };
    let run = |change: &dyn Fn(usize) -> Result<StoredChunk, &'static str>| {
        let error = unpack(&verified(&index, &trust()), |at| Ok(change(at)?), &target).unwrap_err();
        assert_eq!(names(dir.path()), [""; 0]);
        error
    };
    let swapped = run(&|at| Ok(chunk(if at == 2 { 1 } else { at })));
    assert!(matches!(&swapped, UnpackError::Refused(Refused::ChunkDigest { chunk: 2, .. })), "{swapped}");
    let gone = run(&|at| if at == 1 { Err("the line is cut") } else { Ok(chunk(at)) });
    assert_eq!(gone.code(), "release.chunk_missing");
    assert!(gone.to_string().contains("chunk 1") && gone.to_string().contains("the line is cut"), "{gone}");
    // The chunks are right, the digest over all of them is not.
    let lie = Index { digest: Digest::of(b"else"), ..index.clone() };
    let error = unpack(&verified(&lie, &trust()), |at| Ok(chunk(at)), &target).unwrap_err();
    assert_eq!(error.code(), "release.digest");
    assert_eq!(names(dir.path()), [""; 0]);
}

/// Gives damaged chunks first.
struct Damaging<'a> {
    chunks: &'a [StoredChunk],
    /// How often each one is damaged.
    damaged: usize,
    given: Vec<usize>,
    verified: Vec<usize>,
}

impl Damaging<'_> {
    fn give(&mut self, position: usize) -> StoredChunk {
        let mut chunk = self.chunks[position].clone();
        chunk.data[0] ^= u8::from(self.given[position] < self.damaged);
        self.given[position] += 1;
        chunk
    }
}

impl ChunkSource for &mut Damaging<'_> {
    fn chunk(&mut self, position: usize) -> Result<StoredChunk, SourceError> {
        Ok(self.give(position))
    }

    fn instead(&mut self, position: usize, refused: &Refused) -> Option<Result<StoredChunk, SourceError>> {
        assert_eq!(refused.code(), "release.chunk_digest");
        (self.given[position] < 3).then(|| Ok(self.give(position)))
    }

    fn verified(&mut self, position: usize) {
        self.verified.push(position);
    }
}

#[test]
fn a_source_may_give_another_chunk_for_one_that_is_refused() {
    let tar = TarMaker::good().file("big", &noise(3 << 20)).bytes();
    let index = index_of(&tar);
    let chunks: Vec<StoredChunk> =
        tar.chunks(MAX_CHUNK).map(|data| StoredChunk { zstd: false, data: data.to_vec() }).collect();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("release");
    let source = |damaged| Damaging { chunks: &chunks, damaged, given: vec![0; 4], verified: vec![] };
    let mut hopeless = source(3);
    let error = unpack(&verified(&index, &trust()), &mut hopeless, &target).unwrap_err();
    assert_eq!(error.code(), "release.chunk_digest");
    assert_eq!((hopeless.given, hopeless.verified), (vec![3, 0, 0, 0], vec![]));
    assert_eq!(names(dir.path()), [""; 0]);
    let mut patient = source(2);
    unpack(&verified(&index, &trust()), &mut patient, &target).unwrap();
    assert_eq!((patient.given, patient.verified), (vec![3; 4], vec![0, 1, 2, 3]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever an archive has, nothing is written outside of its target.
    #[test]
    fn no_archive_writes_outside_its_target(
        entries in prop::collection::vec(
            (0usize..6, "(\\.\\./|/|a/|b/|\\./){0,3}[ab]", "(\\.\\./|/|a/|b/){0,3}[ab]"), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Symlink,
            EntryType::Directory, EntryType::Link];
        let tar = entries.iter().fold(TarMaker::good(), |tar, (kind, name, link)| {
            tar.entry(kinds[*kind], name.as_bytes(), link.as_bytes(), b"")
        });
        let result = unpack_tar(&tar.bytes(), &inner.join("release"));
        prop_assert_eq!(names(dir.path()), ["inner"]);
        let expected: &[&str] = if result.is_ok() { &["release"] } else { &[] };
        prop_assert_eq!(names(&inner), expected);
        if result.is_ok() {
            let root = inner.join("release").canonicalize().unwrap();
            for (_, name, _) in &entries {
                // A link may dangle, but never leads out.
                if let Ok(real) = root.join(name).canonicalize() {
                    prop_assert!(real.starts_with(&root), "{name} leads to {}", real.display());
                }
            }
        }
    }
}
