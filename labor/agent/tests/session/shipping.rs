//! What travels of a release, and what the agents of a host have for each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use overseer_protocol::proto::{self, report};
use overseer_protocol::{Bootstrap, Cause, ReleaseCache};
use overseer_release::{Package, ReleaseBuilder};
use tempfile::TempDir;

use crate::load::{is_ready, load, package, probe};
use crate::node::Node;
use crate::overseer::{Overseer, Seen};

/// What an agent asked for before it said that a release is loaded.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    indexes: usize,
    /// Chunks of each request.
    chunks: Vec<usize>,
}

/// An Overseer that has a release of the probe and some MiB beside it, and a cache for its nodes.
struct Scene {
    overseer: Overseer,
    bootstrap: Bootstrap,
    directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let overseer = Overseer::on_tcp().await;
        let directory = tempfile::tempdir().unwrap();
        let mut bootstrap = overseer.bootstrap();
        bootstrap.cache = ReleaseCache::at(directory.path().join("cache"));
        Self { overseer, bootstrap, directory }
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    /// From now on it has this release.
    fn has(&self, builder: ReleaseBuilder) -> String {
        let (package, _directory) = package(builder);
        let release = package.id().to_string();
        self.overseer.script(|script| script.package = Some(package));
        release
    }

    async fn node(&mut self) -> Node {
        let node = Node::start(&self.bootstrap);
        self.overseer.attached().await;
        node
    }

    /// Orders to load it, and waits until it is loaded and then up.
    async fn loads(&mut self, release: &str) -> (proto::Loaded, Asked) {
        self.overseer.order(load(release, "allow"));
        let mut asked = Asked::default();
        let loaded = self
            .overseer
            .until(|seen| {
                match seen {
                    Seen::Index => asked.indexes += 1,
                    Seen::Chunks(count) => asked.chunks.push(count),
                    Seen::Reported(_, report::Kind::Loaded(loaded)) => return Some(loaded),
                    Seen::Reported(_, report::Kind::LoadFailed(failed)) => {
                        panic!("{}", Cause::from_bytes(&failed.cause))
                    }
                    _ => {}
                }
                None
            })
            .await;
        is_ready(&mut self.overseer).await;
        (loaded, asked)
    }

    fn package<T>(&self, look: impl FnOnce(&Package) -> T) -> T {
        look(self.overseer.shared.script.lock().package.as_ref().unwrap())
    }

    /// Bytes of all chunks as they travel, and their number.
    fn whole(&self) -> (u64, usize) {
        self.package(|package| {
            let chunks = package.index().chunks.len();
            let sizes = (0..chunks).map(|at| package.read_chunk(at).unwrap().data.len() as u64);
            (sizes.sum(), chunks)
        })
    }
}

/// The probe and some bytes that cannot be compressed; no two scenes have the same.
fn large(directory: &Path, mib: usize) -> ReleaseBuilder {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut bytes = vec![0; mib << 20];
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let file = directory.join("large");
    fs::write(&file, bytes).unwrap();
    probe().file("large", file)
}

/// The file of the only release that is kept.
fn kept(cache: &Path) -> PathBuf {
    let mut files: Vec<_> =
        fs::read_dir(cache.join("releases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// Where each chunk of it is in its file, as [`kept`] files are made.
fn places(package: &Package, file: &Path) -> Vec<Place> {
    let bytes = fs::read(file).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (table, count) = (16 + number(8), number(12));
    assert_eq!(count, package.index().chunks.len());
    let mut offset = (table + count * 40).next_multiple_of(4096);
    let rows = (0..count).map(|position| table + position * 40);
    rows.map(|row| {
        let place = Place { row: row + 36, offset, stored: number(row + 36) };
        offset += number(row + 32);
        place
    })
    .collect()
}

struct Place {
    /// Of the stored bytes.
    row: usize,
    offset: usize,
    stored: usize,
}

#[tokio::test]
async fn the_second_agent_of_a_host_fetches_nothing() {
    let mut scene = Scene::new().await;
    let release = scene.has(large(scene.directory.path(), 3));
    let (bytes, chunks) = scene.whole();
    let _first = scene.node().await;
    let (loaded, asked) = scene.loads(&release).await;
    assert_eq!(asked, Asked { indexes: 1, chunks: vec![chunks] });
    let index = loaded.fetched - bytes;
    assert!(index > 0 && index < 100_000 && loaded.cached == 0, "{loaded:?}");
    let there = scene.package(|package| places(package, &kept(&scene.cache())));
    assert!(there.iter().all(|place| place.stored > 0) && there.len() == chunks);

    let second = scene.node().await;
    let (loaded, asked) = scene.loads(&release).await;
    assert_eq!(asked, Asked::default());
    assert_eq!((loaded.fetched, loaded.cached), (0, bytes + index));
    assert!(second.directory.path().join("releases").join(&release).is_dir(), "a tree of its own");
}

#[tokio::test]
async fn chunks_in_the_cache_that_are_damaged_cut_or_gone_are_fetched_and_the_rest_is_not() {
    let mut scene = Scene::new().await;
    let release = scene.has(large(scene.directory.path(), 4));
    let _first = scene.node().await;
    scene.loads(&release).await;
    let file = kept(&scene.cache());
    let good = fs::read(&file).unwrap();
    let places = scene.package(|package| places(package, &file));
    let (damaged, gone, last) = (&places[0], &places[2], places.last().unwrap());
    let mut bytes = good.clone();
    bytes[damaged.offset] ^= 1;
    bytes[gone.row..gone.row + 4].fill(0);
    // Cut within the last one.
    bytes.truncate(last.offset + last.stored - 1);
    fs::write(&file, bytes).unwrap();
    let (bytes, _) = scene.whole();
    let spoiled = (damaged.stored + gone.stored + last.stored) as u64;

    let (_second, log) = Node::start_logging(&scene.bootstrap, "warn");
    scene.overseer.attached().await;
    let (loaded, asked) = scene.loads(&release).await;
    assert_eq!((asked.indexes, asked.chunks.iter().sum::<usize>()), (0, 3));
    assert_eq!(loaded.fetched, spoiled);
    assert!(loaded.cached > bytes - spoiled && loaded.cached < bytes, "{loaded:?}, {bytes}");
    let said = fs::read_to_string(log.path()).unwrap();
    assert_eq!(said.matches("is damaged; it is fetched again").count(), 2, "{said}");
    assert!(fs::read(&file).unwrap() == good, "what was wrong is put right");
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_was_with_a_cache_and_without() {
    for cached in [true, false] {
        let mut scene = Scene::new().await;
        if !cached {
            scene.bootstrap.cache = ReleaseCache::none();
        }
        let release = scene.has(large(scene.directory.path(), 4));
        let (bytes, chunks) = scene.whole();
        // Pieces have 100 kB at most.
        scene.overseer.script(|script| script.breaks_chunks = vec![7, 0, 1, 12, 3, 0]);
        let _node = scene.node().await;
        let (loaded, asked) = scene.loads(&release).await;
        assert_eq!(asked.chunks.len(), 7);
        assert_eq!(asked.chunks[..2], [chunks; 2], "nothing came the first time");
        assert!(asked.chunks.is_sorted_by(|one, next| one >= next) && asked.chunks[6] < chunks, "{asked:?}");
        // At worst a chunk, and the index, were fetched for nothing each time.
        assert!(loaded.fetched < bytes + 5 * (1 << 20), "{loaded:?}, {bytes}");
        assert_eq!(scene.cache().exists(), cached);
    }
}

#[tokio::test]
async fn what_had_come_before_an_agent_was_killed_does_not_travel_again() {
    let mut scene = Scene::new().await;
    let release = scene.has(large(scene.directory.path(), 4));
    let (_, chunks) = scene.whole();
    // The stream breaks again and again, and nothing more comes.
    scene.overseer.script(|script| {
        script.breaks_chunks = vec![0; 1000];
        script.breaks_chunks.push(25);
    });
    let killed = scene.node().await;
    scene.overseer.order(load(&release, "allow"));
    let mut left = chunks;
    scene
        .overseer
        .until(|seen| match seen {
            Seen::Chunks(count) => {
                left = count;
                (count < chunks).then_some(())
            }
            _ => None,
        })
        .await;
    // The unpacker has all that came when it has kept the last of it.
    let (came, file) = (chunks - left, kept(&scene.cache()));
    let start = std::time::Instant::now();
    let there = || scene.package(|package| places(package, &file));
    while there().iter().filter(|place| place.stored > 0).count() < came {
        assert!(start.elapsed() < crate::overseer::LONG, "{came} chunks are never kept");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(killed);
    scene.overseer.script(|script| script.breaks_chunks.clear());
    let _next = scene.node().await;
    let (loaded, asked) = scene.loads(&release).await;
    assert_eq!(asked, Asked { indexes: 0, chunks: vec![left] });
    assert!(loaded.cached > 0);
}

#[tokio::test]
async fn a_release_that_cannot_be_fetched_does_not_keep_another_one_waiting() {
    let mut scene = Scene::new().await;
    let stuck = scene.has(large(scene.directory.path(), 1));
    scene.overseer.script(|script| script.breaks_chunks = vec![0; 1000]);
    let _node = scene.node().await;
    scene.overseer.order(load(&stuck, "allow"));
    scene.overseer.until(|seen| matches!(seen, Seen::Chunks(_)).then_some(())).await;
    let other = scene.has(large(scene.directory.path(), 1));
    scene.overseer.script(|script| script.breaks_chunks.clear());
    let (loaded, _) = scene.loads(&other).await;
    assert_eq!(loaded.release, other);
}

#[tokio::test]
async fn a_cache_that_cannot_be_used_is_said_once_and_the_release_is_loaded_all_the_same() {
    let mut scene = Scene::new().await;
    let release = scene.has(large(scene.directory.path(), 1));
    fs::write(scene.cache(), "a file in the way").unwrap();
    let (_node, log) = Node::start_logging(&scene.bootstrap, "warn");
    scene.overseer.attached().await;
    let (loaded, _) = scene.loads(&release).await;
    assert_eq!(loaded.cached, 0);
    let said = fs::read_to_string(log.path()).unwrap();
    let path = scene.cache().display().to_string();
    assert_eq!(said.matches(&path).count(), 1, "{said}");
    assert!(said.contains("--cache") && said.contains("whole"), "{said}");
}
