//! A step that says far more than anybody reads.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::world::{World, left_in};

const GIB: u64 = 1 << 30;
/// Bytes of one of its lines, with its end.
const LINE: u64 = 4096;
/// Most memory of the program, in KiB: far more than it needs, far less than is said.
const MEMORY: u64 = 200 << 10;
/// How long it may take: far more than it does.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn a_step_that_says_a_gibibyte_is_shown_whole_and_fills_neither_memory_nor_disk() {
    if std::env::var_os("REQUIRE_PARTS").is_none() {
        return eprintln!("ignored: it takes half a minute; REQUIRE_PARTS=1 asks for it");
    }
    let world = World::new();
    let numbers = GIB / LINE;
    let repository = world.with_build_file(&format!(
        "[jobs.flood]\nsteps = [\"seq -f '%0{}.0f' 1 {numbers}\", \"echo over; exit 7\"]\n",
        LINE - 1
    ));
    let temporary = world.path("t");
    fs::create_dir(&temporary).unwrap();
    let shown = world.path("shown");
    let build = world
        .command(env!("CARGO_BIN_EXE_overseer"))
        .env("TMPDIR", &temporary)
        .arg("build")
        .arg(repository)
        .stdout(File::create(&shown).unwrap())
        .spawn()
        .unwrap();
    let (mut build, begun) = (Running(build), Instant::now());
    let mut peak = 0;
    let status = loop {
        if let Some(status) = build.0.try_wait().unwrap() {
            break status;
        }
        peak = peak.max(peak_of(build.0.id()));
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    assert!((1..MEMORY).contains(&peak), "{peak} KiB");
    // Every line, in order; not held in memory here either.
    let mut lines = BufReader::with_capacity(1 << 20, File::open(shown).unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("flood | $ seq")));
    let width = (LINE - 1) as usize;
    for number in 1..=numbers {
        let line = lines.next().unwrap();
        assert!(line == format!("flood | {number:0width$}"), "{number}: {}", &line[line.len() - 20..]);
    }
    assert_eq!(lines.next().unwrap(), "flood | $ echo over; exit 7");
    assert_eq!(lines.next().unwrap(), "flood | over");
    assert!(lines.any(|line| line == "failed: flood: step 2 of 2 exited with code 7"));
    assert!(left_in(&temporary).is_empty());
    assert_eq!(world.processes(), []);
}

/// A build that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a process has had so far, in KiB; none when it has ended.
fn peak_of(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}
