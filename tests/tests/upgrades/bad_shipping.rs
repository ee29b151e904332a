//! Upgrades whose new version travels badly, or meets a bad cache: the version before serves until the new
//! one is whole.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use overseer::local::Local;
use overseer::{Adapter, Labor, Release, ReleaseCache};
use overseer_tests::own_plane::{OwnPlane, noise};
use overseer_tests::proxy::{Cables, Censor};
use overseer_tests::small_disk::SmallDisk;
use overseer_tests::{TestFleet, labor, within};

use crate::scene::{Load, Outcomes, described, quick, version};

const MIB: usize = 1 << 20;

/// A fleet of one that runs version 1.
async fn first(scene: &OwnPlane, adapter: impl Adapter, cache: ReleaseCache) -> (TestFleet, Labor) {
    scene.one(adapter, version("1", &[]), cache).await
}

/// A version with so many MiB of its own beside the probe, which cannot be compressed.
fn large(directory: &Path, name: &str, mib: usize) -> Release {
    let file = directory.join(format!("noise-{name}"));
    fs::write(&file, noise(name, mib * MIB)).unwrap();
    Release::pack(described(name, &[]).file("noise", file)).unwrap()
}

/// Upgrades a fleet that is called meanwhile, which must work out; how the calls came out.
async fn upgraded(fleet: &TestFleet, labor: &Labor, release: Release, to: &str) -> Outcomes {
    let load = Load::on(fleet, 2);
    let upgrade = fleet.upgrade_with(Some(release), quick()).await.unwrap();
    within("the upgrade", upgrade.done()).await.unwrap();
    let outcomes = load.end().await;
    assert_eq!(outcomes.failed, Vec::<String>::new());
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), to);
    assert_eq!(labor.status().generation.0, 1, "the same life");
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_transfer_is_cut_at_every_tenth_takes_over_and_the_one_before_serves_till_then() {
    const CUTS: u64 = 9;
    let scene = OwnPlane::open().await;
    let two = large(scene.directory.path(), "2", 16);
    // Only the upgrade's transfer is cut: nothing is due before the first bytes count.
    let (carried, cuts) = (Arc::new(OnceLock::<AtomicU64>::new()), Arc::new(AtomicU64::new(0)));
    let (counted, made) = (Arc::clone(&carried), Arc::clone(&cuts));
    let censor: Censor = Box::new(move |bytes| {
        let due = counted.get().map_or(0, |carried| {
            let bytes = bytes as u64;
            (carried.fetch_add(bytes, Ordering::Relaxed) + bytes) * 10 / (16 * MIB as u64)
        });
        let cut = made.fetch_max(due.min(CUTS), Ordering::Relaxed) < due.min(CUTS);
        Box::pin(std::future::ready(cut))
    });
    let cables = Cables::censored(labor!(), censor);
    let (fleet, labor) = first(&scene, cables, ReleaseCache::at(scene.path("cache"))).await;
    carried.set(AtomicU64::new(0)).unwrap();
    let outcomes = upgraded(&fleet, &labor, two, "2").await;
    assert_eq!(cuts.load(Ordering::Relaxed), CUTS);
    assert!(outcomes.by("1") > 0, "{outcomes:?}");
    fleet.end().await;
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_damaged_in_the_cache_is_fetched_again_where_it_is_and_takes_over() {
    let scene = OwnPlane::open().await;
    let cache = || ReleaseCache::at(scene.path("cache"));
    let two = large(scene.directory.path(), "2", 8);
    let (before, labor) = first(&scene, Local::with_program(labor!()), cache()).await;
    upgraded(&before, &labor, two.clone(), "2").await;
    before.end().await;
    let kept = fs::read_dir(scene.path("cache/releases")).unwrap().map(|file| file.unwrap().path());
    let largest = kept.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();

    let (fleet, labor) = first(&scene, Local::with_program(labor!()), cache()).await;
    let outcomes = upgraded(&fleet, &labor, two, "2").await;
    assert_eq!(outcomes.lost, 0);
    let said = scene.log(labor.id());
    assert_eq!(said.matches("is damaged; it is fetched again").count(), 1, "{said}");
    fleet.end().await;
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_has_become_full_or_read_only_is_said_and_the_new_version_takes_over() {
    let scene = OwnPlane::open().await;
    let Some(disk) = SmallDisk::mount(scene.path("disk"), 64 << 10) else { return };
    for (to, says) in [("2", "almost full"), ("3", "Read-only file system")] {
        // The second one finds version 1 there. A disk on which a file is open for writing stays writable.
        if to == "3" {
            disk.make_read_only();
        }
        let cache = ReleaseCache::at(disk.path().join("cache"));
        let (fleet, labor) = first(&scene, Local::with_program(labor!()), cache).await;
        if to == "2" {
            disk.fill(10 << 10);
        }
        let outcomes = upgraded(&fleet, &labor, large(scene.directory.path(), to, 8), to).await;
        assert_eq!(outcomes.lost, 0);
        let said = scene.log(labor.id());
        assert!(said.contains(says) && said.contains(disk.path().to_str().unwrap()), "{said}");
        fleet.end().await;
        if to == "2" {
            disk.make_room();
        }
    }
    within("the shutdown", scene.plane.shutdown()).await;
}
