//! Disks that are full or read-only, under each directory that a build writes to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ran::Ran;
use crate::small_disk::SmallDisk;
use crate::world::{World, left_in};

const BUILDS: &str =
    "[jobs.build]\nsteps = [\"head -c 3000000 /dev/urandom > big\"]\nartifacts = [\"big\"]\n";
const NOTHING: [PathBuf; 0] = [];

/// Where a build puts its things.
struct Places {
    out: PathBuf,
    cache: PathBuf,
    temporary: PathBuf,
}

impl Places {
    fn of(world: &World) -> Self {
        let temporary = world.path("t");
        if !temporary.exists() {
            fs::create_dir(&temporary).unwrap();
        }
        Self { out: world.path("out"), cache: world.path("cache"), temporary }
    }

    /// Builds there. Nothing runs after it.
    fn build(&self, world: &World, repository: &Path) -> Ran {
        let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
        command.env("OVERSEER_CACHE", &self.cache).env("TMPDIR", &self.temporary);
        command.arg("build").arg(repository).arg("--json").arg("--out").arg(&self.out);
        let ran = world.run(&mut command);
        assert_eq!(world.processes(), []);
        ran
    }
}

/// What the program says went wrong and what to do about it.
fn said(ran: &Ran) -> String {
    let mut said = String::new();
    for document in ran.documents() {
        for part in [&document["message"], &document["help"], &document["failure"]["message"]] {
            said.extend(part.as_str().map(|part| format!("{part}\n")));
        }
    }
    said
}

/// Each of these is in it.
fn says(ran: &Ran, parts: &[&str]) {
    let said = said(ran);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("no such method"), "{said}");
}

#[test]
fn a_full_disk_for_artifacts_is_named_and_left_as_it_was() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 2048) else { return };
    let repository = world.with_build_file(BUILDS);
    let (path, places) = (disk.path().to_str().unwrap(), Places::of(&world));
    disk.fill(64);
    // Its own directory on the disk, and the whole disk.
    for out in [disk.path().join("deep/out"), disk.path().to_owned()] {
        let ran = Places { out, ..Places::of(&world) }.build(&world, &repository).exits(3);
        says(&ran, &[path, "No space left on device", "--out"]);
        assert_eq!(disk.names().into_iter().filter(|name| name != "deep").collect::<Vec<_>>(), [""; 0]);
        assert!(!disk.path().join("deep/out").exists());
        assert_eq!(left_in(&places.temporary), NOTHING);
    }
    // Not even the first byte of it.
    fs::remove_dir(disk.path().join("deep")).unwrap();
    disk.fill(0);
    let ran = Places { out: disk.path().join("out"), ..Places::of(&world) }.build(&world, &repository);
    says(&ran.exits(3), &[path, "No space left on device", "--out"]);
    assert_eq!(disk.names(), [""; 0]);
    // With room it is all there.
    disk.make_room();
    let small = world.repository("small", &[(".overseer.toml", &BUILDS.replace("3000000", "30000"))]);
    Places { out: disk.path().join("out"), ..Places::of(&world) }.build(&world, &small).exits(0);
    assert_eq!(fs::read(disk.path().join("out/build/big")).unwrap().len(), 30_000);
    assert_eq!(fs::read(disk.path().join("out/.gitignore")).unwrap(), b"*\n");
}

#[test]
fn digests_that_do_not_fit_on_the_disk_make_it_no_success() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 2048) else { return };
    let repository = world.with_build_file(&BUILDS.replace("3000000", "0"));
    let places = Places { out: disk.path().to_owned(), ..Places::of(&world) };
    places.build(&world, &repository).exits(0);
    assert!(disk.path().join("B3SUMS").exists());
    // Room for a longer artifact, and no more.
    world.commit(&repository, &[(".overseer.toml", &BUILDS.replace("3000000", "40960"))], "Grow");
    disk.fill(40);
    let ran = places.build(&world, &repository).exits(3);
    says(&ran, &["B3SUMS", "No space left on device", "--out"]);
    assert_eq!(ran.documents().last().unwrap()["result"], "fault");
    assert_eq!(disk.path().join("build/big").metadata().unwrap().len(), 40960);
    assert!(!disk.path().join("B3SUMS").exists(), "those of the last build");
}

#[test]
fn a_read_only_disk_for_artifacts_is_refused_before_anything_is_built() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 2048) else { return };
    let ran = world.path("ran");
    let repository = world.with_build_file(&format!("[jobs.build]\nsteps = [\"touch {}\"]\n", ran.display()));
    disk.make_read_only();
    let places = Places { out: disk.path().join("out"), ..Places::of(&world) };
    let refused = places.build(&world, &repository).exits(2);
    says(&refused, &[disk.path().to_str().unwrap(), "Read-only file system", "--out", "choose another"]);
    assert!(!ran.exists());
    assert_eq!(left_in(&places.temporary), NOTHING);
}

#[test]
fn a_full_or_read_only_cache_is_named_with_the_variable_that_moves_it() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 64 << 10) else { return };
    let repository = world.with_build_file(BUILDS);
    let path = disk.path().to_str().unwrap();
    let places = Places { cache: disk.path().to_owned(), ..Places::of(&world) };
    let builds = |code, parts: &[&str]| {
        let ran = places.build(&world, &repository).exits(code);
        says(&ran, parts);
        assert_eq!(left_in(&places.temporary), NOTHING);
        assert!(code == 0 || !places.out.exists());
    };
    // Nothing is cached yet.
    disk.fill(64);
    builds(3, &[path, "No space left on device", "make room", "OVERSEER_CACHE"]);
    assert_eq!(fs::read_dir(disk.path().join("releases")).unwrap().count(), 0);
    fs::remove_dir(disk.path().join("releases")).unwrap();
    // The builder is cached, and there is no room for the checkout.
    disk.make_room();
    builds(0, &[]);
    fs::remove_dir_all(disk.path().join("work")).unwrap();
    fs::remove_dir_all(&places.out).unwrap();
    disk.fill(0);
    builds(3, &[path, "No space left on device", "free space on that disk"]);
    // Or for what a step makes: then it is the step that fails, in its own words.
    disk.make_room();
    disk.fill(1000);
    builds(1, &["step 1 of 1 exited with code 1"]);
    // What is half made there does not spoil the next build.
    disk.make_room();
    builds(0, &[]);
    fs::remove_dir_all(&places.out).unwrap();
    disk.make_read_only();
    builds(3, &[path, "Read-only file system", "OVERSEER_CACHE"]);
}

#[test]
fn a_read_only_cache_without_a_builder_is_named_with_the_variable_that_moves_it() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 2048) else { return };
    let repository = world.with_build_file(BUILDS);
    disk.make_read_only();
    let places = Places { cache: disk.path().to_owned(), ..Places::of(&world) };
    let ran = places.build(&world, &repository).exits(3);
    says(&ran, &[disk.path().to_str().unwrap(), "Read-only file system", "OVERSEER_CACHE"]);
    assert_eq!(left_in(&places.temporary), NOTHING);
}

#[test]
fn a_full_or_read_only_directory_for_temporary_files_is_named() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 2048) else { return };
    let repository = world.with_build_file(BUILDS);
    let path = disk.path().to_str().unwrap();
    let places = Places { temporary: disk.path().to_owned(), ..Places::of(&world) };
    let builds = |advices: &[&str]| {
        let ran = places.build(&world, &repository).exits(3);
        says(&ran, &[path]);
        let said = said(&ran);
        assert!(advices.iter().any(|advice| said.contains(advice)), "none of {advices:?} is in: {said}");
        assert!(!places.out.exists());
    };
    let left = || left_in(disk.path()).into_iter().filter(|path| !path.ends_with("filler"));
    let make_room = &["make room"][..];
    // Nothing fits, the Overseer's own store does not, that has no room for a labor, and the labors'
    // release does not fit; while that is unpacked, the store may find itself without room, too.
    for (room, advices) in
        [(0, make_room), (400, make_room), (1090, make_room), (1900, &["check space", "make room"])]
    {
        disk.fill(room);
        builds(advices);
        disk.make_room();
        assert_eq!(left().collect::<Vec<_>>(), NOTHING);
    }
    disk.make_read_only();
    let ran = places.build(&world, &repository).exits(3);
    says(&ran, &[path, "Read-only file system", "permissions"]);
}

#[test]
fn an_artifact_that_does_not_fit_among_the_temporary_files_is_named() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 64 << 10) else { return };
    let repository = world.with_build_file(&BUILDS.replace("3000000", "60000000"));
    let places = Places { temporary: disk.path().to_owned(), ..Places::of(&world) };
    let ran = places.build(&world, &repository).exits(3);
    says(&ran, &["artifact big", disk.path().to_str().unwrap(), "No space left on device", "check space"]);
    assert_eq!(left_in(disk.path()), NOTHING);
    assert!(!places.out.exists());
}

#[test]
fn a_log_that_does_not_fit_among_the_temporary_files_is_told_and_the_job_ends_as_it_does() {
    if std::env::var_os("REQUIRE_PARTS").is_none() {
        return eprintln!("ignored: a full disk is waited for half a minute; REQUIRE_PARTS=1 asks for it");
    }
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("disk"), 24 << 10) else { return };
    let repository = world.with_build_file("[jobs.loud]\nsteps = [\"seq 1 4000000\", \"exit 7\"]\n");
    let places = Places { temporary: disk.path().to_owned(), ..Places::of(&world) };
    let ran = places.build(&world, &repository).exits(1);
    says(&ran, &["step 2 of 2 exited with code 7", "the end of the log did not arrive"]);
    for part in [disk.path().to_str().unwrap(), "cannot be written", "No space left on device"] {
        assert!(ran.stderr.contains(part), "{part:?} is not said to people: {}", ran.stderr);
    }
    // What was shown before is in order and without holes.
    let documents = ran.documents();
    let lines = documents.iter().filter(|document| document["event"] == "log");
    let whole = lines.zip(1..).take_while(|(line, n)| line["text"].as_str() == Some(&n.to_string())).count();
    assert!(whole > 100_000, "{whole} lines");
    assert_eq!(left_in(disk.path()), NOTHING);
}
