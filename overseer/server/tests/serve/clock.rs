//! A machine whose clock jumps, by hours and both ways, under a server and its labors.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::restarts::lives;
use crate::world::{Serving, World, eventually};

/// What lies between the programs and the clock: Debian's `faketime`. None where it is not there; then the
/// test has been said to be ignored.
fn between() -> Option<PathBuf> {
    let path = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    let path = PathBuf::from(path);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("REQUIRE_PARTS").is_none(), "faketime is missing, which REQUIRE_PARTS asks for");
    eprintln!("ignored: faketime is not installed");
    None
}

struct Clock<'a> {
    world: &'a World,
    library: PathBuf,
}

impl Clock<'_> {
    /// The clock of all programs that [`Clock::under`] has begun, as the real one and so much.
    fn set(&self, offset: &str) {
        let (new, place) = (self.world.path("clock.new"), self.world.path("clock"));
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, place).unwrap();
    }

    /// What runs is on this clock, and what it starts. The monotonic clock is the real one.
    fn under(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.world.path("clock"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1");
    }
}

#[test]
fn a_clock_that_jumps_by_hours_ends_no_labor_no_claim_and_no_task() {
    let Some(library) = between() else { return };
    let world = World::new();
    let clock = Clock { world: &world, library };
    clock.set("+0");
    let keys = "lease = \"20s\"\nsilence = \"5s\"\nlabors = 2";
    world.configure("", &[("web", keys), ("none", "labors = 0")]);
    let serve = || {
        let mut command = world.command(["serve"]);
        clock.under(&mut command);
        let mut serving = Serving::start(command);
        serving.wait_for("is ready");
        serving
    };
    let mut serving = serve();
    world.wait_ready("web", 2);
    let (web, none) = (world.fleet("web"), world.fleet("none"));
    let before = lives(&world, "web");
    let submit = |args: &[&str]| {
        world.ask(["submit"].iter().chain(args).copied())["task"].as_str().unwrap().to_owned()
    };
    let runs = submit(&[&web, "wait_file", &world.gate("go")]);
    let over = submit(&[&web, "echo", "7"]);
    world.ask(["task", "attach", &over]);
    let mut waiting = vec![submit(&[&none, "echo", "1", "--queue", "30m"])];
    let mut labors = 2;
    for (offset, way) in [("+3h", "forward by 108"), ("-3h", "back by 216"), ("+0", "forward by 108")] {
        clock.set(offset);
        serving.wait_for(&format!("jumped {way}"));
        // What is new is judged by the same clock as what was there.
        waiting.push(submit(&[&none, "echo", "1", "--queue", "30m"]));
        labors += 1;
        world.ask(["fleet", "start", &web, "--labors", &labors.to_string()]);
        world.wait_ready("web", labors);
        assert!(lives(&world, "web").is_superset(&before), "no labor has ended: {offset}");
        assert_eq!(world.ask(["task", "show", &runs])["state"], "running", "{offset}");
        for task in &waiting {
            let shown = world.ask(["task", "show", task]);
            assert_eq!(shown["state"], "queued", "{offset}: {shown}");
        }
        assert_eq!(world.ask(["task", "attach", &over])["result"], 7, "{offset}");
        world.ask(["submit", &web, "echo", "1", "--wait"]);
    }
    // A server that is killed while the clock is wrong, and the next one: labors dial again.
    clock.set("-2h");
    serving.wait_for("jumped back by 72");
    let before = lives(&world, "web");
    serving.signal(rustix::process::Signal::KILL);
    serving.end();
    let mut serving = serve();
    world.wait_ready("web", labors);
    assert_eq!(lives(&world, "web"), before);
    world.go("go");
    let done = world.ask(["task", "attach", &runs]);
    assert_eq!(done["attempts"], 1, "{done}");
    world.configure("on_stop = \"end\"", &[("web", keys), ("none", "labors = 1")]);
    world.ask(["reload"]);
    for task in &waiting {
        assert_eq!(world.ask(["task", "attach", task])["result"], 1);
    }
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.end(), 0);
    eventually("no node is left", || world.nodes().is_empty());
}
