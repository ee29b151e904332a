use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::world::World;

fn directory(world: &World) {
    fs::create_dir(world.path("hello")).unwrap();
    let manifest = "name = \"hello\"\nversion = \"1.2.3\"\nkind = \"program\"\nentry = \"run.sh\"\n";
    fs::write(world.path("hello/release.toml"), manifest).unwrap();
    fs::write(world.path("hello/run.sh"), "#!/bin/sh\necho hello\n").unwrap();
}

#[test]
fn a_release_is_packed_signed_inspected_and_verified() {
    let world = World::new();
    directory(&world);
    let made = world.overseer(["release", "keygen", "me", "--json"]).exits(0).document();
    assert_eq!(world.path("me.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let packed = world.overseer(["release", "pack", "hello", "--key", "me.key", "--json"]).exits(0);
    let packed = packed.document();
    assert_eq!(packed["signed_by"], made["public_key"]);
    let file = "hello-1.2.3.release";
    let inspected = world.overseer(["release", "inspect", file, "--json"]).exits(0).document();
    assert_eq!(inspected["id"], packed["id"]);
    assert_eq!(inspected["manifest"]["version"], "1.2.3");
    let text = world.overseer(["release", "inspect", file]).exits(0).stdout;
    assert!(text.contains("run.sh") && text.contains("1.2.3"), "{text}");
    world.overseer(["release", "verify", file, "--trust", "me.pub"]).exits(0);
    let key = made["public_key"].as_str().unwrap();
    let verdict = world.overseer(["release", "verify", file, "--trust", key, "--json"]).exits(0).document();
    assert_eq!((&verdict["ok"], &verdict["signed_by"]), (&true.into(), &made["public_key"]));
}

#[test]
fn a_release_of_somebody_else_is_refused_and_a_damaged_one_too() {
    let world = World::new();
    directory(&world);
    for name in ["me", "other"] {
        world.overseer(["release", "keygen", name]).exits(0);
    }
    world.overseer(["release", "pack", "hello", "--key", "me.key", "--out", "r"]).exits(0);
    let verdict = world.overseer(["release", "verify", "r", "--trust", "other.pub", "--json"]).exits(1);
    let verdict = verdict.document();
    assert_eq!(verdict["ok"], false);
    assert!(verdict["code"].as_str().unwrap().starts_with("release."), "{verdict}");
    world.overseer(["release", "pack", "hello", "--out", "unsigned"]).exits(0);
    world.overseer(["release", "verify", "unsigned", "--trust", "me.pub"]).exits(1);
    let mut bytes = fs::read(world.path("r")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(world.path("damaged"), bytes).unwrap();
    world.overseer(["release", "verify", "damaged", "--trust", "me.pub"]).exits(2);
}

#[test]
fn a_program_is_packed_without_a_directory() {
    let world = World::new();
    fs::write(world.path("run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(world.path("extra"), "x").unwrap();
    let args = ["release", "pack", "--program", "run.sh", "--name", "run", "--release-version", "0.1.0"];
    let more = ["--arg=--loud", "--env", "A=b", "--file", "share/extra=extra"];
    world.overseer(args.iter().chain(&more)).exits(0);
    let inspected = world.overseer(["release", "inspect", "run-0.1.0.release", "--json"]).exits(0);
    let inspected = inspected.document();
    assert_eq!(inspected["manifest"]["args"][0], "--loud");
    assert_eq!(inspected["manifest"]["environment"]["A"], "b");
    assert!(inspected["entries"].to_string().contains("share/extra"));
}

#[test]
fn a_program_that_is_run_for_each_call_is_packed_with_how_often_at_once() {
    let world = World::new();
    fs::write(world.path("run.sh"), "#!/bin/sh\n").unwrap();
    let args = ["release", "pack", "--program", "run.sh", "--name", "run", "--release-version", "0.1.0"];
    for (more, concurrency) in [(&["--run"][..], 1), (&["--run", "--concurrency", "4"], 4)] {
        world.overseer(args.iter().chain(more)).exits(0);
        let inspected = world.overseer(["release", "inspect", "run-0.1.0.release", "--json"]).exits(0);
        let manifest = &inspected.document()["manifest"];
        assert_eq!((&manifest["mode"], &manifest["concurrency"]), (&"run".into(), &concurrency.into()));
    }
    for (more, part) in [
        (&["--run", "--serve"][..], "cannot be used with"),
        (&["--concurrency", "4"], "--run"),
        (&["--run", "--concurrency", "0"], "1 to 1024"),
    ] {
        let ran = world.overseer(args.iter().chain(more)).exits(2);
        assert!(ran.stderr.contains(part), "{more:?}: {}", ran.stderr);
    }
}

#[test]
fn mistakes_in_arguments_change_nothing() {
    let world = World::new();
    directory(&world);
    fs::write(world.path("me.key"), "not a key").unwrap();
    fs::set_permissions(world.path("me.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["pack"], "required"),
        (&["pack", "hello", "--key", "me.key"], "signing key"),
        (&["pack", "--plugin", "hello/run.sh"], "--name"),
        (
            &["pack", "--program", "hello/run.sh", "--name", "x", "--release-version", "one"],
            "semantic version",
        ),
        (
            &["pack", "--program", "hello/run.sh", "--name", "x", "--release-version", "1.0.0", "--env", "A"],
            "NAME=VALUE",
        ),
        (&["verify", "hello/run.sh", "--trust", "nobody"], "public key"),
        (&["keygen", "me"], "not overwritten"),
    ];
    for (args, part) in cases {
        let ran = world.overseer(["release"].iter().chain(args)).exits(2);
        assert!(ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
    }
    let releases = fs::read_dir(world.path("")).unwrap().flatten();
    assert_eq!(releases.filter(|e| e.path().extension().is_some_and(|x| x == "release")).count(), 0);
    assert!(!world.path("me.pub").exists());
}

#[test]
fn nothing_but_a_file_is_replaced_by_a_package() {
    let world = World::new();
    directory(&world);
    rustix::fs::mkfifoat(rustix::fs::CWD, world.path("fifo"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::fs::symlink("/dev/full", world.path("device")).unwrap();
    for out in ["fifo", "device"] {
        let ran = world.overseer(["release", "pack", "hello", "--out", out]).exits(2);
        assert!(ran.stderr.contains("no regular file"), "{}", ran.stderr);
    }
    assert!(!world.path("fifo").metadata().unwrap().is_file());
    fs::write(world.path("file"), "").unwrap();
    std::os::unix::fs::symlink("file", world.path("link")).unwrap();
    world.overseer(["release", "pack", "hello", "--out", "link"]).exits(0);
    assert!(world.path("link").symlink_metadata().unwrap().is_symlink());
    assert!(world.path("file").metadata().unwrap().len() > 0);
}

#[test]
fn a_plugin_that_no_host_could_load_is_not_packed() {
    let world = World::new();
    for library in ["/bin/sh", "/etc/passwd"] {
        let args = ["release", "pack", "--name", "x", "--release-version", "1.0.0", "--plugin", library];
        let ran = world.overseer(args).exits(2);
        assert!(ran.stderr.contains("cdylib"), "{}", ran.stderr);
    }
    let args = ["release", "pack", "--name", "x", "--release-version", "1.0.0", "--plugin", "x", "--serve"];
    world.overseer(args).exits(2);
}
