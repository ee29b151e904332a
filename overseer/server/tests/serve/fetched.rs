//! A release from a URL: the one of its id, and no other.

use std::fs::{self, File, FileTimes};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use overseer::Release;

use crate::world::{World, eventually};

/// Serves one file over HTTP. Each answer breaks off after `most` bytes.
struct Mirror {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Mirror {
    fn of(file: Vec<u8>, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                // One who hangs up has what it wants.
                let _ = answer(connection.unwrap(), &file, most);
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/probe.release", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn answer(mut connection: TcpStream, file: &[u8], most: usize) -> std::io::Result<()> {
    let mut from = None;
    for line in BufReader::new(&connection).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let start = from.unwrap_or(0);
    let Some(rest) = file.get(start..).filter(|rest| !rest.is_empty()) else {
        return connection.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n");
    };
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", rest.len())?;
    connection.write_all(&rest[..rest.len().min(most)])
}

fn configure(world: &World, url: &str, id: &str) {
    let fleet = world.fleet("a");
    let text = format!(
        "[server]\ndata = \"data\"\non_stop = \"end\"\n[fleets.{fleet}]\nadapter = \"local\"\n\
         release = \"{url}\"\nrelease_id = \"{id}\"\nunsigned = \"allow\"\nlabors = 1\n"
    );
    fs::write(world.path("overseer.toml"), text).unwrap();
}

#[test]
fn a_release_is_fetched_once_however_often_its_download_breaks() {
    let world = World::new();
    let file = fs::read(world.path("probe.release")).unwrap();
    let id = Release::open(&world.path("probe.release")).unwrap().id().to_string();
    let mirror = Mirror::of(file.clone(), file.len() / 4 + 1);
    configure(&world, &mirror.url(), &id);
    let serving = world.serve();
    world.wait_ready("a", 1);
    assert_eq!(mirror.requests(), 4, "each goes on where the last one broke");
    let kept = world.path(&format!("cache/downloads/{id}.release"));
    assert_eq!(fs::read(kept).unwrap(), file);
    world.ask(["reload"]);
    serving.stop();
    assert_eq!(mirror.requests(), 4, "what is here is not fetched again");
}

#[test]
fn what_another_address_has_left_does_not_spoil_a_download() {
    let world = World::new();
    let file = fs::read(world.path("probe.release")).unwrap();
    let id = Release::open(&world.path("probe.release")).unwrap().id().to_string();
    let part = world.path(&format!("cache/downloads/{id}.part"));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, "the beginning of another file").unwrap();
    let mirror = Mirror::of(file, usize::MAX);
    configure(&world, &mirror.url(), &id);
    let held = File::open(&part).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut waits = world.command(["serve", "--check"]).spawn().unwrap();
    eventually("it waits for who fetches it", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&format!(" {} ", waits.id())))
    });
    drop(held);
    assert!(waits.wait().unwrap().success());
    assert_eq!(mirror.requests(), 2, "gone on with, then from the beginning");
}

#[test]
fn what_is_another_release_or_none_is_not_taken() {
    let world = World::new();
    let file = fs::read(world.path("probe.release")).unwrap();
    let mirror = Mirror::of(file, usize::MAX);
    let other = "0".repeat(64);
    configure(&world, &mirror.url(), &other);
    let refused = world.overseer(["serve"]).exits(2);
    assert!(refused.stderr.contains("release.fetched_other"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&other), "{}", refused.stderr);
    let nonsense = Mirror::of(vec![7; 1000], usize::MAX);
    configure(&world, &nonsense.url(), &other);
    let refused = world.overseer(["serve", "--check"]).exits(2);
    assert!(refused.stderr.contains("release.fetched_none"), "{}", refused.stderr);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    configure(&world, &format!("http://{gone}/x"), &other);
    let refused = world.overseer(["serve", "--check"]).exits(2);
    assert!(refused.stderr.contains("release.fetch"), "{}", refused.stderr);
    assert!(refused.stderr.contains("put the file on this machine"), "{}", refused.stderr);
    assert_eq!(
        fs::read_dir(world.path("cache/downloads")).unwrap().count(),
        1,
        "but for what may be gone on with"
    );
}

#[test]
fn what_nobody_names_and_nobody_has_used_for_long_is_removed() {
    let world = World::new();
    let file = fs::read(world.path("probe.release")).unwrap();
    let id = Release::open(&world.path("probe.release")).unwrap().id().to_string();
    let mirror = Mirror::of(file, usize::MAX);
    let downloads = world.path("cache/downloads");
    fs::create_dir_all(&downloads).unwrap();
    let aged = |name: &str, days: u64| {
        let (path, then) = (downloads.join(name), SystemTime::now() - Duration::from_secs(days * 86_400));
        let file = File::options().append(true).create(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_accessed(then).set_modified(then)).unwrap();
        path
    };
    let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
    let (old, young) = (aged(&format!("{one}.release"), 31), aged(&format!("{two}.release"), 29));
    let (broken, going) = (aged(&format!("{one}.part"), 8), aged(&format!("{two}.part"), 6));
    configure(&world, &mirror.url(), &id);
    world.overseer(["serve", "--check"]).exits(0);
    assert!(old.exists() && broken.exists(), "a check removes nothing");
    let serving = world.serve();
    world.wait_ready("a", 1);
    assert_eq!([&old, &young, &broken, &going].map(|path| path.exists()), [false, true, false, true]);
    // What is named stays, however long ago it was used, and counts as used then.
    let named = aged(&format!("{id}.release"), 99);
    aged(&format!("{two}.release"), 31);
    world.ask(["reload"]);
    assert!(named.exists() && !young.exists());
    assert!(named.metadata().unwrap().accessed().unwrap().elapsed().unwrap() < Duration::from_secs(86_400));
    serving.stop();
}

#[test]
fn other_fleets_are_served_while_a_release_is_fetched() {
    let world = World::new();
    let file = fs::read(world.path("probe.release")).unwrap();
    let id = Release::open(&world.path("probe.release")).unwrap().id().to_string();
    // One that takes connections and says nothing until it is told to.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/probe.release", silent.local_addr().unwrap());
    world.configure("on_stop = \"end\"", &[("ok", "labors = 1")]);
    let mut text = fs::read_to_string(world.path("overseer.toml")).unwrap();
    let slow = world.fleet("slow");
    text.push_str(&format!(
        "[fleets.{slow}]\nadapter = \"local\"\nrelease = \"{url}\"\nrelease_id = \"{id}\"\nunsigned = \"allow\"\n"
    ));
    fs::write(world.path("overseer.toml"), text).unwrap();
    let serving = world.serve();
    world.wait_ready("ok", 1);
    let shown = world.overseer(["fleet", "show", &slow]);
    assert!(
        shown.stderr.contains("release.fetching") || shown.stderr.contains("being fetched"),
        "{}",
        shown.stderr
    );
    for connection in silent.incoming().take(1) {
        answer(connection.unwrap(), &file, usize::MAX).unwrap();
    }
    world.wait_ready("slow", 1);
    serving.stop();
}
