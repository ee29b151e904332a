//! How a server stops, and what a service manager is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{LONG, Serving, World};

#[test]
fn an_open_call_may_finish_and_nothing_new_begins() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let a = world.fleet("a");
    let mut call = Serving::start(world.command(["call", &a, "wait_file", &world.gate("go")]));
    world.wait_open("a", 1);
    serving.signal(Signal::TERM);
    world.wait_stopping("a");
    let refused = world.overseer(["call", &a, "echo", "1", "--json"]).exits(3).document();
    assert_eq!(refused["code"], "server.stopping");
    world.go("go");
    assert_eq!(call.end(), 0);
    assert_eq!(serving.end(), 0);
    assert!(world.nodes().is_empty());
}

#[test]
fn a_call_that_takes_longer_than_the_grace_is_cut_off() {
    let world = World::new();
    world.configure("on_stop = \"end\"\ngrace = \"300ms\"", &[("a", "deadlines = { stop = \"1s\" }")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let mut call = Serving::start(world.command(["call", &world.fleet("a"), "wait_cancel", LONG]));
    world.wait_open("a", 1);
    serving.signal(Signal::INT);
    assert_eq!(call.end(), 3);
    assert_eq!(serving.end(), 0);
    assert!(world.nodes().is_empty());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::new();
    world.configure("on_stop = \"end\"\ngrace = \"1h\"", &[("a", "")]);
    let mut serving = world.serve();
    world.wait_ready("a", 1);
    let _call = Serving::start(world.command(["call", &world.fleet("a"), "wait_cancel", LONG]));
    world.wait_open("a", 1);
    serving.signal(Signal::TERM);
    world.wait_stopping("a");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), 143);
}

#[test]
fn a_service_manager_is_told_everything() {
    let world = World::new();
    world.configure("on_stop = \"end\"", &[("a", "labors = 1")]);
    let path = world.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(wanted) {
                return text;
            }
            // Pings come whenever they like.
            assert_eq!(text, "WATCHDOG=1");
        }
    };
    let mut command = world.command(["serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut serving = Serving::start(command);
    assert_eq!(next("READY=1"), "READY=1\nSTATUS=1 fleet, 1 labor");
    next("WATCHDOG=1");
    serving.signal(Signal::HUP);
    assert!(next("RELOADING=1").contains("\nMONOTONIC_USEC="));
    next("READY=1");
    serving.signal(Signal::TERM);
    next("STOPPING=1");
    assert_eq!(serving.end(), 0);
}
