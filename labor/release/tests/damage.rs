//! A package with any bit flipped, cut short or with something behind it is never used.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use overseer_release::{Package, Trust, inspect};
use proptest::prelude::*;

/// The code of whatever refuses this package, or none if it was unpacked.
fn outcome(package: &Path, trust: &Trust, target: &Path) -> Option<&'static str> {
    let package = match Package::open(package) {
        Ok(package) => package,
        Err(error) => return Some(error.code()),
    };
    package.unpack(trust, target).err().map(|error| error.code())
}

/// Writes a file anew. Cutting the old one first would wait for the disk on some file systems.
fn rewrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Where in a package its chunks are.
fn chunk_area(package: &Path) -> Range<usize> {
    let package = Package::open(package).unwrap();
    let chunks = 0..package.index().chunks.len();
    32..32 + chunks.map(|at| package.read_chunk(at).unwrap().data.len()).sum::<usize>()
}

fn flip_every_bit(trust: &Trust, may_be_ignored: impl Fn(usize) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = small_package(dir.path());
    let good = fs::read(&path).unwrap();
    let library = noise(300);
    let damaged = dir.path().join("damaged.release");
    let target = dir.path().join("target");
    fs::write(&damaged, &good).unwrap();
    let file = fs::File::options().write(true).open(&damaged).unwrap();
    for bit in 0..good.len() * 8 {
        let (byte, place) = (good[bit / 8], (bit / 8) as u64);
        // In place: writing the whole file anew waits for the disk on some file systems.
        file.write_all_at(&[byte ^ 1 << (bit % 8)], place).unwrap();
        match outcome(&damaged, trust, &target) {
            Some(code) => {
                assert!(code.starts_with("release."));
                assert!(!target.exists(), "bit {bit} was refused as {code} and left a directory");
            }
            None => {
                assert!(may_be_ignored(bit / 8), "bit {bit} of {} went unseen", good.len() * 8);
                assert_eq!(names(&target), ["libhello.so", "release.toml"]);
                assert_eq!(fs::read(target.join("libhello.so")).unwrap(), library);
                fs::remove_dir_all(&target).unwrap();
            }
        }
        file.write_all_at(&[byte], place).unwrap();
    }
    assert_eq!(outcome(&path, trust, &target), None);
    assert_eq!(names(dir.path()), ["damaged.release", "hello.release", "libhello.so", "target"]);
}

#[test]
fn every_flipped_bit_of_a_signed_package_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let frame = chunk_area(&small_package(dir.path()));
    // A zstd frame has bits that its format ignores; what comes out of it is the same.
    flip_every_bit(&trust(), |byte| frame.contains(&byte));
}

#[test]
fn every_flipped_bit_that_counts_is_refused_without_signatures_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_package(dir.path());
    let (frame, length) = (chunk_area(&path), fs::metadata(&path).unwrap().len() as usize);
    // A signature of an unknown key is as good as none.
    flip_every_bit(&Trust::unsigned(), |byte| frame.contains(&byte) || byte >= length - 96);
}

#[test]
fn a_package_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_package(dir.path());
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        rewrite(&path, &good[..length]);
        let error = Package::open(&path).unwrap_err();
        assert_eq!(error.code(), "release.package_damaged", "cut at {length}: {error}");
        assert!(error.to_string().contains("hello.release"), "{error}");
    }
}

#[test]
fn bytes_behind_a_package_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_package(dir.path());
    let good = fs::read(&path).unwrap();
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    let error = inspect(&path).unwrap_err();
    assert!(error.to_string().contains("behind its end"), "{error}");
}

#[test]
fn lengths_that_cannot_be_are_refused_without_an_allocation() {
    let dir = tempfile::tempdir().unwrap();
    let path = small_package(dir.path());
    let good = fs::read(&path).unwrap();
    for (at, length) in [(8, 8), (16, 4), (20, 4), (24, 4)] {
        for fill in [0x00, 0x01, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at..at + length].fill(fill);
            rewrite(&path, &bytes);
            assert!(Package::open(&path).is_err(), "{at} {fill}");
        }
    }
    fs::write(&path, "name = \"this is no package\"").unwrap();
    assert_eq!(Package::open(&path).unwrap_err().code(), "release.package_damaged");
    assert_eq!(Package::open(&dir.path().join("nothing")).unwrap_err().code(), "release.package_io");
    assert_eq!(Package::open(dir.path()).unwrap_err().code(), "release.package_io");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_is_unpacked_or_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = small_package(dir.path());
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(good.len()));
        }
        rewrite(&path, &bytes);
        let target = dir.path().join("target");
        let refused = outcome(&path, &trust(), &target);
        prop_assert!(bytes != good || refused.is_none());
        prop_assert_eq!(refused.is_none(), target.exists());
        if refused.is_none() {
            prop_assert_eq!(fs::read(target.join("libhello.so")).unwrap(), noise(300));
        }
        prop_assert_eq!(inspect(&path).is_ok() || refused.is_some(), true);
    }
}
