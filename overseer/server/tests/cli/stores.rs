//! `overseer store`, on directories that are good, damaged, taken or of others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use overseer::data_dir::DataDir;
use overseer::store::{Store, Transaction};
use serde_json::Value;

use crate::world::World;

fn put(data: &DataDir, key: &str, value: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let put = Transaction::new().put(key, value.to_owned());
    runtime.block_on(data.store().transact(put)).unwrap();
}

/// A data directory with two fleets that were spoken of by hand.
fn data(world: &World) -> DataDir {
    let data = DataDir::open(world.path("data")).unwrap();
    put(&data, "desired/web", r#"{"state":"stopped"}"#);
    put(&data, "desired/farm", r#"{"state":"running","labors":3}"#);
    data
}

fn check(world: &World, code: i32) -> Value {
    world.overseer(["store", "check", "--data", "data", "--json"]).exits(code).document()
}

#[test]
fn a_good_store_passes_and_problems_are_told_with_their_keys() {
    let world = World::new();
    let open = data(&world);
    drop(open);
    let document = check(&world, 0);
    assert_eq!((&document["ok"], &document["counts"]["fleets by hand"]), (&true.into(), &2.into()));
    let open = DataDir::open(world.path("data")).unwrap();
    put(&open, "zebra/1", "x");
    put(&open, "desired/web", "{}");
    drop(open);
    let document = check(&world, 1);
    assert_eq!(document["problems"][0]["key"], "desired/web");
    assert_eq!(document["problems"][1]["kind"], "unknown_key");
    let text = world.overseer(["store", "check", "--data", "data", "--deep"]).exits(1).stdout;
    for part in ["fleets by hand", "unknown_key: zebra/1", "2 problems"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().take(3).all(|line| line.len() <= 80), "{text}");
}

#[test]
fn a_directory_that_is_in_use_is_refused() {
    let world = World::new();
    let open = data(&world);
    for command in [&["store", "check", "--data", "data"][..], &["store", "export", "x", "--data", "data"]] {
        let ran = world.overseer(command.iter().copied().chain(["--json"])).exits(2);
        assert_eq!(ran.documents()[0]["code"], "store.in_use");
        assert!(ran.documents()[0]["help"].as_str().unwrap().contains("stop the server"), "{}", ran.stdout);
    }
    put(&open, "desired/web", r#"{"state":"stopped"}"#);
    assert!(!world.path("x").exists());
}

#[test]
fn what_was_exported_is_imported_into_a_new_place_only() {
    let world = World::new();
    drop(data(&world));
    let ran = world.overseer(["store", "export", "all.export", "--data", "data", "--blobs"]).exits(0);
    assert!(ran.stdout.contains("2 entries") && ran.stderr.contains("secret"), "{ran:?}");
    assert_eq!(fs::metadata(world.path("all.export")).unwrap().permissions().mode() & 0o777, 0o600);
    let import = |file: &str, to: &str, code| {
        let ran = world.overseer(["store", "import", file, "--data", to, "--json"]).exits(code);
        ran.document()
    };
    assert_eq!(import("all.export", "new", 0)["entries"], 2);
    world.overseer(["store", "check", "--data", "new"]).exits(0);
    assert_eq!(import("all.export", "new", 2)["code"], "export.exists");
    assert_eq!(import("none.export", "other", 2)["code"], "export.io");
    let mut bytes = fs::read(world.path("all.export")).unwrap();
    fs::write(world.path("short.export"), &bytes[..bytes.len() - 1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(world.path("changed.export"), &bytes).unwrap();
    assert_eq!(import("changed.export", "other", 2)["code"], "export.damaged");
    assert_eq!(import("short.export", "other", 2)["code"], "export.cut_short");
    assert!(!world.path("other").exists());
}

fn serve(world: &World) -> Value {
    fs::write(world.path("overseer.toml"), "[server]\ndata = \"data\"\nsocket = \"run/s\"\n").unwrap();
    world.overseer(["serve", "--json"]).exits(2).document()
}

/// What is damaged is told in the same way by the check and by a server, and left as it was.
fn both_refuse(world: &World, code: &str, parts: &[&str]) {
    let file = world.path("data/store.redb");
    let before = fs::read(&file).unwrap();
    for document in [check(world, 2), serve(world)] {
        assert_eq!(document["code"], code, "{document}");
        let text = format!("{} {}", document["message"], document["help"]);
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_damaged_store_is_named_by_the_check_and_by_a_server() {
    let world = World::new();
    drop(data(&world));
    let file = world.path("data/store.redb");
    let good = fs::read(&file).unwrap();
    let mut garbage = good.clone();
    let middle = good.len() / 4;
    garbage[4096..middle.max(8192)].fill(0xa5);
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", vec![]),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("zeros", vec![0; good.len()]),
        ("garbage", garbage),
        ("of another program", b"SQLite format 3\0".repeat(1000)),
    ];
    for (what, bytes) in cases {
        println!("{what}");
        fs::write(&file, bytes).unwrap();
        both_refuse(&world, "store.damaged", &["data/store.redb", "restore it from an export"]);
    }
    fs::write(&file, good).unwrap();
    check(&world, 0);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for document in [check(&world, 2), serve(&world)] {
        assert_eq!(document["code"], "store.damaged", "{document}");
        assert!(document["message"].as_str().unwrap().contains("it is a directory"), "{document}");
    }
}

#[test]
fn a_directory_that_is_not_ours_or_not_there_is_refused_and_not_made() {
    let world = World::new();
    assert_eq!(check(&world, 2)["code"], "data_dir.no_store");
    assert!(!world.path("data").exists());
    drop(data(&world));
    fs::set_permissions(world.path("data"), fs::Permissions::from_mode(0o777)).unwrap();
    both_refuse(&world, "data_dir.open_to_others", &["chmod 700"]);
    fs::set_permissions(world.path("data"), fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&world.path("data"), 12345);
        both_refuse(&world, "data_dir.foreign_owner", &["belongs to user 12345"]);
        chown(&world.path("data"), 0);
    }
    check(&world, 0);
}

fn chown(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), None).unwrap();
}

/// A file system with room for almost nothing, as long as this lives.
struct Small(std::path::PathBuf);

impl Small {
    /// None where this user may not mount one.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "small"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_half_made_is_left_on_it() {
    let world = World::new();
    let open = data(&world);
    // Does not get smaller by being packed.
    let mut noise = String::new();
    for n in 0..10_000u32 {
        noise.push_str(&blake3::hash(&n.to_le_bytes()).to_hex());
    }
    put(&open, "noise", &noise);
    drop(open);
    world.overseer(["store", "export", "all.export", "--data", "data"]).exits(0);
    let Some(small) = Small::mount(&world.path("small")) else {
        eprintln!("ignored: this user may not mount a file system");
        return;
    };
    for args in [
        &["store", "export", "small/x.export", "--data", "data"][..],
        &["store", "import", "all.export", "--data", "small/data"],
    ] {
        let error = world.overseer(args.iter().copied().chain(["--json"])).exits(3).document();
        assert!(["export.io", "store.not_writable"].contains(&error["code"].as_str().unwrap()), "{error}");
        assert!(error["message"].as_str().unwrap().contains("small"), "{error}");
        assert_eq!(fs::read_dir(world.path("small")).unwrap().count(), 0, "{args:?}");
    }
    drop(small);
}
