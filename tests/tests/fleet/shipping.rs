//! How much of a release travels, and what happens to it on a bad line or with a bad cache.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use overseer::local::Local;
use overseer::release::ReleaseBuilder;
use overseer::{Adapter, ControlPlane, Labor, LaborId, Quiet, Release, ReleaseCache};
use overseer_tests::own_plane::{OwnPlane, noise};
use overseer_tests::processes::{self, Role};
use overseer_tests::proxy::{Cables, Censor};
use overseer_tests::small_disk::SmallDisk;
use overseer_tests::{TestFleet, builder, eventually, labor, probe_library, within};
use rustix::process::Signal;

const MIB: usize = 1 << 20;

/// A control plane, and what its labors had of releases.
struct Scene(OwnPlane);

impl Deref for Scene {
    type Target = OwnPlane;

    fn deref(&self) -> &OwnPlane {
        &self.0
    }
}

impl Scene {
    async fn open() -> Self {
        Self(OwnPlane::open().await)
    }

    /// A fleet with one labor that is ready, and what it had of its release.
    async fn fleet(
        &self,
        adapter: impl Adapter,
        release: &Release,
        cache: ReleaseCache,
    ) -> (TestFleet, Labor, Had) {
        let (fleet, labor) = self.one(adapter, release.clone(), cache).await;
        let had = Had::of(&self.plane, &fleet);
        (fleet, labor, had)
    }

    /// The same of a local labor, which is ended again.
    async fn had(&self, release: &Release, cache: ReleaseCache) -> Had {
        let (fleet, labor, had) = self.fleet(local(), release, cache).await;
        assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
        fleet.end().await;
        had
    }
}

/// Where the bytes of a fleet's releases came from.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Had {
    fetched: f64,
    cached: f64,
}

impl Had {
    fn of(plane: &ControlPlane, fleet: &TestFleet) -> Self {
        let name = format!("fleet=\"{}\"", fleet.name());
        let from = |from: &str| {
            let labels = [name.as_str(), from];
            crate::metrics::value(&plane.metrics(), "overseer_release_bytes_total", &labels)
        };
        Self { fetched: from("from=\"overseer\""), cached: from("from=\"cache\"") }
    }
}

fn local() -> Local {
    Local::with_program(labor!())
}

/// The probe with these bytes beside it.
fn release(directory: &Path, version: &str, bytes: &[u8]) -> Release {
    let file = directory.join(format!("noise-{version}"));
    fs::write(&file, bytes).unwrap();
    let builder = ReleaseBuilder::plugin("probe", version, probe_library()).file("noise", file);
    Release::pack(builder).unwrap()
}

fn count(directory: PathBuf) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_new_version_only_what_differs_travels_and_of_one_that_the_host_has_had_nothing() {
    let scene = Scene::open().await;
    let cache = || ReleaseCache::at(scene.path("cache"));
    let mut bytes = noise("versions", 32 * MIB);
    let first = release(scene.directory.path(), "1.0.0", &bytes);
    let middle = bytes.len() / 2;
    let changed = bytes.len() / 100;
    bytes[middle..middle + changed].copy_from_slice(&noise("changed", changed));
    let second = release(scene.directory.path(), "2.0.0", &bytes);
    // What is inserted moves everything behind it.
    bytes.splice(1000..1000, noise("inserted", 5000));
    let third = release(scene.directory.path(), "3.0.0", &bytes);

    let had = scene.had(&first, cache()).await;
    let whole = had.fetched;
    assert!(whole > (32 * MIB) as f64 && had.cached == 0.0, "{had:?}");
    for release in [&second, &third] {
        let had = scene.had(release, cache()).await;
        assert!(had.fetched > 0.0 && had.fetched < 0.05 * whole, "{had:?} of {whole}");
        assert!(had.cached > 0.95 * whole, "{had:?} of {whole}");
    }
    // By another fleet, a labor beside another, and by the next life of one.
    for release in [&first, &second] {
        let had = scene.had(release, cache()).await;
        assert!(had.fetched == 0.0 && had.cached > 0.99 * whole, "{had:?}");
    }
    let (fleet, labor, _) = scene.fleet(local(), &third, cache()).await;
    let beside = fleet.start_child().await.unwrap();
    within("one beside it", beside.ready()).await.unwrap();
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    within("ready again", labor.ready()).await.unwrap();
    let had = Had::of(&scene.plane, &fleet);
    assert!(had.fetched == 0.0 && had.cached > 2.97 * whole, "{had:?}");
    fleet.end().await;
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_all_of_it_travels_and_nothing_is_kept() {
    let scene = Scene::open().await;
    let release = release(scene.directory.path(), "1.0.0", &noise("none", MIB));
    let first = scene.had(&release, ReleaseCache::none()).await;
    let none = ReleaseCache::at(scene.path("cache")).quota(0);
    let again = scene.had(&release, none).await;
    assert!(first == again && first.fetched > MIB as f64 && first.cached == 0.0, "{first:?} {again:?}");
    assert!(!scene.path("cache").exists());
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_that_start_at_the_same_time_share_a_cache_that_is_too_small_and_all_get_ready() {
    let scene = Scene::open().await;
    // Any two of the releases are more than the quota.
    let quota = 12 * MIB as u64;
    let cache = || ReleaseCache::at(scene.path("cache")).quota(quota);
    let releases: Vec<Release> = (0..3)
        .map(|n| release(scene.directory.path(), &format!("{n}.0.0"), &noise(&format!("{n}"), 6 * MIB)))
        .collect();
    for _ in 0..3 {
        let fleet = async |release: &Release| {
            let builder = builder(Quiet, local()).control_plane(&scene.plane);
            TestFleet::with(builder.release(release.clone()).release_cache(cache()), 3).await
        };
        let (one, two, three) = tokio::join!(fleet(&releases[0]), fleet(&releases[1]), fleet(&releases[2]));
        for (fleet, labors) in [one, two, three] {
            for labor in labors {
                assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
            }
            fleet.end().await;
        }
    }
    // Nothing of them runs any more: what the last one keeps is within the quota.
    let last = release(scene.directory.path(), "9.0.0", &noise("last", MIB));
    scene.had(&last, cache()).await;
    let size = || -> u64 {
        let files = fs::read_dir(scene.path("cache/releases")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    eventually("the surplus is evicted", async || (size() <= quota).then_some(())).await;
    within("the shutdown", scene.plane.shutdown()).await;
}

/// A line that is cut again and again, and what went over it.
struct Line {
    cables: Cables,
    labor: Arc<OnceLock<LaborId>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    carried: AtomicU64,
    cuts: AtomicU64,
}

impl Line {
    /// Cuts the connection that carries it whenever another so many bytes have come, `most` times,
    /// and with it, where `all` is so, every other one of the labor.
    fn cut(every: u64, most: u64, all: bool) -> Self {
        let (labor, cables) = (Arc::new(OnceLock::<LaborId>::new()), Arc::new(OnceLock::<Cables>::new()));
        let counts = Arc::new(Counts::default());
        let (of_labor, of_all, counted) = (Arc::clone(&labor), Arc::clone(&cables), Arc::clone(&counts));
        let censor = move |bytes: usize| -> Pin<Box<dyn Future<Output = bool> + Send>> {
            let bytes = bytes as u64;
            let carried = counted.carried.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let due = (carried / every).min(most);
            let cuts = counted.cuts.fetch_max(due, Ordering::Relaxed) < due;
            if let (true, true, Some(cables), Some(labor)) = (cuts, all, of_all.get(), of_labor.get()) {
                let (cables, labor) = (cables.clone(), *labor);
                // It waits for this connection as well, and does not yield to it.
                tokio::task::spawn_blocking(move || cables.cut(labor));
            }
            Box::pin(std::future::ready(cuts))
        };
        let censor: Censor = Box::new(censor);
        let made = Cables::censored(labor!(), censor);
        let _ = cables.set(made.clone());
        Self { cables: made, labor, counts }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_at_every_tenth_of_a_transfer_carries_it_nearly_once() {
    let scene = Scene::open().await;
    let release = release(scene.directory.path(), "1.0.0", &noise("cuts", 16 * MIB));
    let whole = scene.had(&release, ReleaseCache::none()).await.fetched as u64;
    // Where all are cut, what comes over the next connection may be cut, too.
    for (name, all, keeps, most) in
        [("bulk", false, true, 1.2), ("all", true, true, 1.7), ("none", false, false, 1.2)]
    {
        let cache = match keeps {
            true => ReleaseCache::at(scene.path(name)),
            false => ReleaseCache::none(),
        };
        let line = Line::cut(whole / 10, 9, all);
        let builder = builder(Quiet, line.cables.clone()).control_plane(&scene.plane);
        let fleet = TestFleet::start(builder.release(release.clone()).release_cache(cache)).await;
        let labor = fleet.start_child().await.unwrap();
        line.labor.set(labor.id()).unwrap();
        within("the labor gets ready", labor.ready()).await.unwrap();
        assert_eq!(line.counts.cuts.load(Ordering::Relaxed), 9, "{name}");
        assert_eq!(labor.status().generation.0, 1, "{name}: the same life");
        // With each cut goes what was on its way, a chunk or two.
        let carried = line.counts.carried.load(Ordering::Relaxed);
        let times = carried as f64 / whole as f64;
        assert!((1.0..most).contains(&times), "{name}: {times} times");
        assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
        fleet.end().await;
    }
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_full_or_read_only_is_said_and_the_labor_gets_ready() {
    let scene = Scene::open().await;
    let Some(disk) = SmallDisk::mount(scene.path("disk"), 64 << 10) else { return };
    let cache = || ReleaseCache::at(disk.path().join("cache"));
    let first = release(scene.directory.path(), "1.0.0", &noise("first", 8 * MIB));
    let second = release(scene.directory.path(), "2.0.0", &noise("second", 8 * MIB));

    disk.fill(10 << 10);
    let (fleet, labor, had) = scene.fleet(local(), &first, cache()).await;
    let said = scene.log(labor.id());
    for part in [disk.path().to_str().unwrap(), "almost full", "make room", "--cache"] {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    assert!(had.cached == 0.0 && count(disk.path().join("cache/releases")) == 0, "{had:?}");
    fleet.end().await;

    disk.make_room();
    scene.had(&first, cache()).await;
    assert_eq!(count(disk.path().join("cache/releases")), 1);
    disk.make_read_only();
    // What is there is good, and nothing is added.
    let had = scene.had(&first, cache()).await;
    assert!(had.fetched == 0.0 && had.cached > (8 * MIB) as f64, "{had:?}");
    let (fleet, labor, had) = scene.fleet(local(), &second, cache()).await;
    let said = scene.log(labor.id());
    assert_eq!(said.matches("Read-only file system").count(), 1, "{said}");
    assert!(had.fetched > (8 * MIB) as f64, "{had:?}");
    fleet.end().await;
    // One that was never used cannot be made.
    let nowhere = ReleaseCache::at(disk.path().join("other"));
    let (fleet, labor, had) = scene.fleet(local(), &second, nowhere).await;
    let said = scene.log(labor.id());
    assert!(said.contains("Read-only file system") && said.contains("whole"), "{said}");
    assert!(had.fetched > (8 * MIB) as f64 && had.cached == 0.0, "{had:?}");
    fleet.end().await;
    within("the shutdown", scene.plane.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_that_the_cache_fills_has_room_for_what_runs() {
    let scene = Scene::open().await;
    let Some(disk) = SmallDisk::mount(scene.path("disk"), 64 << 10) else { return };
    let cache = || ReleaseCache::at(disk.path().join("cache"));
    // Each is kept with as much beside it: the fifth has room only if the first goes.
    for n in 0..7 {
        let bytes = noise(&format!("disk {n}"), 8 * MIB);
        let release = release(scene.directory.path(), &format!("{n}.0.0"), &bytes);
        let (fleet, labor, had) = scene.fleet(local(), &release, cache()).await;
        assert!(had.fetched > (8 * MIB) as f64, "{n}: {had:?}");
        assert_eq!(scene.log(labor.id()), "", "{n}");
        fleet.end().await;
        let again = scene.had(&release, cache()).await;
        assert_eq!(again.fetched, 0.0, "{n}: {again:?}");
    }
    within("the shutdown", scene.plane.shutdown()).await;
}
