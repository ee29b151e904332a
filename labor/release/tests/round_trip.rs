//! What is packed is what is unpacked.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use common::*;
use overseer_release::{
    InspectedContent, Kind, MAX_CHUNK, Manifest, Mode, PARTIAL_PREFIX, PackError, Package, ReleaseBuilder,
    Restart, StoredChunk, Trust, inspect, pack, remove_partials, unpack,
};

const MANIFEST: &str = "# a comment\nname = \"tool\"\nversion = \"2.1.0\"\nkind = \"program\"\n\
    entry = \"bin/tool\"\nargs = [\"--serve\"]\n\n[environment]\nPORT = \"80\"\n";

/// A directory with all that a release may have.
fn source(dir: &Path) -> PathBuf {
    let root = dir.join("source");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("share/empty")).unwrap();
    fs::write(root.join("release.toml"), MANIFEST).unwrap();
    fs::write(root.join("bin/tool"), noise(2 << 20)).unwrap();
    fs::write(root.join("bin-not"), "x").unwrap();
    fs::write(root.join("share/empty-file"), "").unwrap();
    let long = root.join(format!("share/{}/{}", "d".repeat(120), "e".repeat(200)));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::write(&long, "deep").unwrap();
    fs::write(root.join("share/script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("share/script"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("../bin/tool", root.join("share/tool")).unwrap();
    symlink(format!("{}/{}", "d".repeat(120), "e".repeat(200)), root.join("share/far")).unwrap();
    symlink("nowhere", root.join("share/dangling")).unwrap();
    root
}

#[test]
fn a_directory_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let root = source(dir.path());
    let packed = pack(&root, None, Some(&key()), dir.path()).unwrap();
    assert_eq!(packed.path, dir.path().join("tool-2.1.0.release"));
    assert_eq!(packed.size, fs::metadata(&packed.path).unwrap().len());
    let package = Package::open(&packed.path).unwrap();
    assert_eq!((package.id(), package.index()), (packed.id, &packed.index));
    let target = dir.path().join("target");
    let verified = package.unpack(&trust(), &target).unwrap();
    assert_eq!((verified.id(), verified.signed_by()), (packed.id, Some(key().public())));
    assert_eq!(names(&target), ["bin", "bin-not", "release.toml", "share"]);
    assert_eq!(fs::read(target.join("bin/tool")).unwrap(), noise(2 << 20));
    assert_eq!(fs::read(target.join("share/tool")).unwrap().len(), 2 << 20);
    assert_eq!(fs::read_to_string(target.join("share/far")).unwrap(), "deep");
    assert_eq!(fs::read_link(target.join("share/dangling")).unwrap(), Path::new("nowhere"));
    assert!(target.join("share/empty").is_dir());
    assert_eq!(fs::read(target.join("share/empty-file")).unwrap(), b"");
    let mode = |path: &str| target.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("share/script") & 0o7100, 0o100);
    assert_eq!(mode("bin/tool") & 0o100, 0o100, "a program's entry can be run");
    let manifest = Manifest::read(&target.join("release.toml")).unwrap();
    assert_eq!(manifest, packed.index.manifest);
}

#[test]
fn equal_files_give_equal_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = pack(&source(one.path()), None, Some(&key()), one.path()).unwrap();
    let root = source(two.path());
    let stamp = fs::File::options().write(true).open(root.join("bin-not")).unwrap();
    stamp.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::set_permissions(root.join("bin-not"), fs::Permissions::from_mode(0o600)).unwrap();
    let second = pack(&root, None, Some(&key()), &two.path().join("other.name")).unwrap();
    assert_eq!(first.id, second.id);
    assert!(fs::read(first.path).unwrap() == fs::read(second.path).unwrap());
    fs::write(root.join("bin-not"), "y").unwrap();
    assert_ne!(pack(&root, None, None, two.path()).unwrap().id, first.id);
}

#[test]
fn a_release_is_made_of_single_files_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = source(dir.path());
    let make = |out: &str| {
        ReleaseBuilder::program("tool", "2.1.0", root.join("bin/tool"))
            .file("share/doc/readme", root.join("bin-not"))
            .environment("PORT", "80")
            .args(["--serve"])
            .mode(Mode::Serve)
            .restart(Restart::Never)
            .sign(&key())
            .write(&dir.path().join(out))
            .unwrap()
    };
    let (one, two) = (make("one.release"), make("two.release"));
    assert!(fs::read(&one.path).unwrap() == fs::read(&two.path).unwrap());
    let manifest = &one.index.manifest;
    assert_eq!(manifest.kind, Kind::Program { args: vec!["--serve".into()], mode: Mode::Serve });
    let target = dir.path().join("target");
    Package::open(&one.path).unwrap().unpack(&trust(), &target).unwrap();
    assert_eq!(names(&target), ["release.toml", "share", "tool"]);
    assert_eq!(fs::read_to_string(target.join("share/doc/readme")).unwrap(), "x");
}

#[test]
fn what_cannot_be_packed_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let attempt = |change: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(dir.path().join("source"));
        let root = source(dir.path());
        change(&root);
        let error = pack(&root, None, None, &out).unwrap_err();
        assert_eq!(names(&out), [""; 0], "{error}");
        (error.code(), error.to_string())
    };
    let has = |(code, text): (&str, String), expected: &str, word: &str| {
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(word), "{text}");
    };
    let link = |target: &'static str| move |root: &Path| symlink(target, root.join("evil")).unwrap();
    has(attempt(&link("/etc/passwd")), "release.pack_link", "source/evil");
    has(attempt(&link("../x")), "release.pack_link", "source/evil");
    let socket = |root: &Path| drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    has(attempt(&socket), "release.pack_special_file", "source/socket");
    let newline = |root: &Path| fs::write(root.join("a\nb"), "").unwrap();
    has(attempt(&newline), "release.pack_path", "control character");
    let not_text = |root: &Path| {
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff");
        fs::write(root.join(name), "").unwrap();
    };
    has(attempt(&not_text), "release.pack_path", "UTF-8");
    let no_entry = |root: &Path| fs::remove_file(root.join("bin/tool")).unwrap();
    has(attempt(&no_entry), "release.pack_entry_missing", "bin/tool");
    let no_manifest = |root: &Path| fs::remove_file(root.join("release.toml")).unwrap();
    has(attempt(&no_manifest), "release.manifest", "source/release.toml");
    let wrong = |root: &Path| fs::write(root.join("release.toml"), MANIFEST.replace("2.1", "2")).unwrap();
    has(attempt(&wrong), "release.manifest", "release.toml:3:");

    fs::remove_dir_all(dir.path().join("source")).unwrap();
    let root = source(dir.path());
    let inside = pack(&root, None, None, &root.join("share")).unwrap_err();
    assert!(matches!(inside, PackError::Inside(_)), "{inside}");
    let nowhere = pack(&root, None, None, &dir.path().join("no/where.release")).unwrap_err();
    assert!(nowhere.to_string().contains("no"), "{nowhere}");
}

#[test]
fn a_builder_with_bad_values_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libx.so");
    fs::write(&file, "x").unwrap();
    let plugin = |name, version| ReleaseBuilder::plugin(name, version, &file);
    let code = |builder: ReleaseBuilder, word: &str| {
        let error = builder.write(&dir.path().join("x.release")).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(names(dir.path()), ["libx.so"]);
        error.code()
    };
    assert_eq!(code(plugin("X", "1.0.0"), "`name`"), "release.manifest");
    assert_eq!(code(plugin("x", "1"), "`version`"), "release.manifest");
    assert_eq!(code(plugin("x", "1.0.0").environment("", ""), "environment."), "release.manifest");
    assert_eq!(code(plugin("x", "1.0.0").abi(0), "`abi`"), "release.manifest");
    assert_eq!(code(plugin("x", "1.0.0").file("../x", &file), "../x"), "release.pack_path");
    assert_eq!(code(plugin("x", "1.0.0").file("libx.so", &file), "twice"), "release.pack_duplicate");
    assert_eq!(code(plugin("x", "1.0.0").file("libx.so/y", &file), "below a file"), "release.pack_duplicate");
    assert_eq!(code(plugin("x", "1.0.0").file("release.toml", &file), "twice"), "release.pack_duplicate");
    assert_eq!(
        code(plugin("x", "1.0.0").file("y", dir.path()), "no regular file"),
        "release.pack_special_file"
    );
    let missing = ReleaseBuilder::plugin("x", "1.0.0", dir.path().join("nothing"));
    assert_eq!(code(missing, "nothing"), "release.pack_io");
}

#[test]
fn what_is_there_already_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let package = Package::open(&small_package(dir.path())).unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let error = package.unpack(&trust(), &target).unwrap_err();
    assert_eq!(error.code(), "release.target_exists");
    assert_eq!(names(&target), [""; 0]);
    let nowhere = package.unpack(&trust(), &dir.path().join("no/target")).unwrap_err();
    assert_eq!(nowhere.code(), "release.unpack_io");
}

#[test]
fn what_a_killed_unpacking_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(format!("{PARTIAL_PREFIX}abc/lib"))).unwrap();
    fs::create_dir(dir.path().join("release")).unwrap();
    assert_eq!(remove_partials(dir.path()).unwrap(), 1);
    assert_eq!(names(dir.path()), ["release"]);
}

#[test]
fn chunks_can_come_through_a_channel_from_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let root = source(dir.path());
    let packed = pack(&root, None, Some(&key()), dir.path()).unwrap();
    let package = Package::open(&packed.path).unwrap();
    let verified = package.verify(&trust()).unwrap();
    let (sender, receiver) = mpsc::sync_channel::<StoredChunk>(2);
    let target = dir.path().join("target");
    let unpacking = std::thread::spawn({
        let target = target.clone();
        move || unpack(&verified, |_| receiver.recv().map_err(Into::into), &target)
    });
    for chunk in &package.index().chunks {
        let at = package.position(&chunk.digest).unwrap();
        sender.send(package.read_chunk(at).unwrap()).unwrap();
    }
    unpacking.join().unwrap().unwrap();
    assert_eq!(names(&target).len(), 4);
    assert_eq!(package.read_chunk(9999).unwrap_err().code(), "release.package_io");
}

#[test]
fn an_inspection_shows_what_is_inside() {
    let dir = tempfile::tempdir().unwrap();
    let root = source(dir.path());
    let packed = pack(&root, None, Some(&key()), dir.path()).unwrap();
    let seen = inspect(&packed.path).unwrap();
    assert_eq!((seen.id, &seen.manifest), (packed.id, &packed.index.manifest));
    assert_eq!((seen.size, seen.package_size), (packed.index.size, packed.size));
    assert_eq!(seen.signatures.len(), 1);
    assert!(seen.signatures[0].good && seen.signatures[0].key == key().public().to_string());
    let entry = seen.entries.iter().find(|entry| entry.path == "bin/tool").unwrap();
    let digest = overseer_release::Digest::of(&noise(2 << 20));
    assert_eq!(entry.content, InspectedContent::File { size: 2 << 20, digest, executable: true });
    let paths: Vec<_> = seen.entries.iter().map(|entry| &entry.path).collect();
    assert!(paths.is_sorted() && paths.len() == 13, "{paths:?}");
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["manifest"]["name"], "tool");
    assert_eq!(json["entries"][0]["type"], "directory");

    // Without trust in anyone, and with a signature that is wrong.
    let mut bytes = fs::read(&packed.path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&packed.path, bytes).unwrap();
    assert!(!inspect(&packed.path).unwrap().signatures[0].good);
}

#[test]
fn a_large_file_of_zeros_packs_small_and_a_random_one_is_stored_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libx.so");
    fs::write(&file, vec![0; 40 << 20]).unwrap();
    let make = || ReleaseBuilder::plugin("x", "1.0.0", &file).write(&dir.path().join("x.release")).unwrap();
    let zeros = make();
    assert!(zeros.size < 64 * 1024, "{}", zeros.size);
    assert_eq!(zeros.index.chunks.iter().max_by_key(|c| c.size).unwrap().size as usize, MAX_CHUNK);
    let seen = inspect(&zeros.path).unwrap();
    assert!(seen.distinct_chunks < 5, "{}", seen.distinct_chunks);
    fs::write(&file, noise(4 << 20)).unwrap();
    let random = make();
    assert!(random.size < (4 << 20) + 64 * 1024, "{}", random.size);
    let package = Package::open(&random.path).unwrap();
    assert!(!package.read_chunk(1).unwrap().zstd);
    package.unpack(&Trust::unsigned(), &dir.path().join("target")).unwrap();
    assert!(fs::read(dir.path().join("target/libx.so")).unwrap() == noise(4 << 20));
}
