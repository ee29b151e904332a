//! How long packing and unpacking take. Not a test of correctness, so it runs only when asked:
//! `cargo test --release -p overseer-release --test speed -- --ignored --nocapture`
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::*;
use overseer_release::{Package, ReleaseBuilder};

const ROUNDS: usize = 15;

/// Median of a few rounds; `undo` puts things back between them and is not counted.
fn median(mut run: impl FnMut(), undo: impl Fn()) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            let took = start.elapsed();
            undo();
            took
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn measure(what: &str, dir: &Path, file: &Path) {
    let out = dir.join("x.release");
    let target = dir.join("target");
    let pack = || drop(ReleaseBuilder::program("x", "1.0.0", file).sign(&key()).write(&out).unwrap());
    let packing = median(pack, || fs::remove_file(&out).unwrap());
    pack();
    let package = Package::open(&out).unwrap();
    let unpacking =
        median(|| drop(package.unpack(&trust(), &target).unwrap()), || fs::remove_dir_all(&target).unwrap());
    // The floor: the same bytes, neither checked nor compressed.
    let copying = median(|| assert!(fs::copy(file, &target).is_ok()), || fs::remove_file(&target).unwrap());
    println!(
        "{what}: {:.1} MiB, packed {:.1} MiB; pack {packing:.1?}, verify and unpack {unpacking:.1?}, \
         plain copy {copying:.1?}",
        file.metadata().unwrap().len() as f64 / 1048576.0,
        out.metadata().unwrap().len() as f64 / 1048576.0,
    );
}

#[test]
#[ignore = "a measurement: run it in release mode, with --nocapture"]
fn packing_and_unpacking_are_quick() {
    let dir = tempfile::tempdir().unwrap();
    let random = dir.path().join("random");
    fs::write(&random, noise(32 << 20)).unwrap();
    measure("random data", dir.path(), &random);
    let binary = std::env::var_os("BINARY").map(PathBuf::from);
    let binary = binary.unwrap_or_else(|| std::env::current_exe().unwrap());
    measure("a binary", dir.path(), &binary);
}
