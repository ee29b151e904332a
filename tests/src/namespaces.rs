//! Network namespaces: one for the server, one for each seat of an agent, and a bridge between
//! them whose cables can be cut, made to lose and made slow. Only root can have them.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::processes;

/// How the names of all of them begin; the process id of the owner follows.
pub const PREFIX: &str = "overseer-test-";

/// What a cable does to what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The link is down.
    Cut,
    /// What the agent sends is lost.
    FromAgent,
    /// What the agent is sent is lost.
    ToAgent,
    /// So many of a hundred packets are lost, either way.
    Loss(u32),
    /// So many kilobits a second pass, either way.
    Slow(u32),
}

/// The namespaces of a test. Gone with all that runs in them when this is dropped.
pub struct Network {
    name: String,
    seats: usize,
}

impl Network {
    /// One with so many seats. None where it cannot be had: then the test has been said to be
    /// ignored. What tests that were killed have left is removed first.
    ///
    /// # Panics
    /// Where it cannot be had and `REQUIRE_PARTS` asks for it.
    pub fn lay(seats: usize) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(missing) = missing() {
            assert!(
                std::env::var_os("REQUIRE_PARTS").is_none(),
                "{missing} is missing, which REQUIRE_PARTS asks for"
            );
            eprintln!("ignored: network namespaces need {missing}");
            return None;
        }
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("{PREFIX}{}-{number}", std::process::id()), seats };
        let server = network.server();
        ip(&["netns", "add", &server]);
        ip(&["-n", &server, "link", "set", "lo", "up"]);
        ip(&["-n", &server, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &server, "address", "add", &format!("{}/24", address(0)), "dev", "bridge"]);
        ip(&["-n", &server, "link", "set", "bridge", "up"]);
        for seat in 0..seats {
            let (agent, cable) = (network.seat(seat), cable(seat));
            ip(&["netns", "add", &agent]);
            ip(&["-n", &agent, "link", "set", "lo", "up"]);
            let other_end = ["peer", "name", "uplink", "netns", &agent];
            ip(&[&["-n", &server, "link", "add", &cable, "type", "veth"], &other_end[..]].concat());
            ip(&["-n", &server, "link", "set", &cable, "master", "bridge", "up"]);
            ip(&["-n", &agent, "address", "add", &format!("{}/24", address(seat + 1)), "dev", "uplink"]);
            ip(&["-n", &agent, "link", "set", "uplink", "up"]);
        }
        Some(network)
    }

    /// The names of all of them, as `ip netns` knows them.
    pub fn names(&self) -> Vec<String> {
        let seats = (0..self.seats).map(|seat| self.seat(seat));
        seats.chain([self.server()]).collect()
    }

    /// Where the server can listen.
    pub fn listen(&self) -> SocketAddr {
        (address(0), 0).into()
    }

    /// How many seats there are.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// Runs something in the server's namespace: its threads are there, and what it starts is, unless
    /// it goes to a seat.
    ///
    /// # Panics
    /// When that does.
    pub fn serve<F: Future>(&self, run: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let place = File::open(format!("/run/netns/{}", self.server())).unwrap();
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                // Threads are where the one is that has started them.
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.unwrap().block_on(run());
            });
            if let Err(panic) = inside.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// A program that runs `program` at a seat, with the same arguments and environment.
    pub fn program_at(&self, seat: usize, program: &str, directory: &std::path::Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join(format!("seat-{seat}"));
        let place = format!("/run/netns/{}", self.seat(seat));
        std::fs::write(&path, format!("#!/bin/sh\nexec nsenter --net={place} {program} \"$@\"\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Does this to a seat's cable, beside what is done to it already.
    pub fn harm(&self, seat: usize, fault: Fault) {
        match fault {
            Fault::Cut => ip(&["-n", &self.server(), "link", "set", &cable(seat), "down"]),
            Fault::FromAgent => self.filter(seat, "", "drop"),
            Fault::ToAgent => self.filter(seat, "drop", ""),
            Fault::Loss(percent) => {
                let rule = format!("numgen random mod 100 < {percent} drop");
                self.filter(seat, &rule, &rule);
            }
            Fault::Slow(kilobits) => {
                let rate = format!("{kilobits}kbit");
                let (server, agent, cable) = (self.server(), self.seat(seat), cable(seat));
                for (place, link) in [(&server, cable.as_str()), (&agent, "uplink")] {
                    let shape = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", "300ms"];
                    let start = ["-n", place, "qdisc", "replace", "dev", link];
                    run(Command::new("tc").args(start).args(shape));
                }
            }
        }
    }

    /// A seat's cable is as good as new.
    pub fn heal(&self, seat: usize) {
        let (server, agent, cable) = (self.server(), self.seat(seat), cable(seat));
        ip(&["-n", &server, "link", "set", &cable, "up"]);
        run(Command::new("ip").args(["netns", "exec", &agent, "nft", "flush", "ruleset"]));
        for (place, link) in [(&server, cable.as_str()), (&agent, "uplink")] {
            // Where there is nothing to remove it says so.
            let remove = ["-n", place, "qdisc", "del", "dev", link, "root"];
            let _ = Command::new("tc").args(remove).stderr(Stdio::null()).status();
        }
    }

    fn filter(&self, seat: usize, input: &str, output: &str) {
        let rules = format!(
            "table inet faults {{\n\
             chain in {{ type filter hook input priority 0;\n{input}\n}}\n\
             chain out {{ type filter hook output priority 0;\n{output}\n}}\n}}\n"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.seat(seat), "nft", "-f", "-"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft does not take {rules}");
    }

    fn server(&self) -> String {
        format!("{}-s", self.name)
    }

    fn seat(&self, seat: usize) -> String {
        format!("{}-{seat}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.names().iter().for_each(|name| remove(name));
    }
}

/// The server is the first, then come the seats.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, number as u8 + 1)
}

/// The server's end of a seat's cable.
fn cable(seat: usize) -> String {
    format!("seat{seat}")
}

/// What of the part is not here.
fn missing() -> Option<&'static str> {
    let there = |program: &str, argument: &str| {
        let tried = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    let programs = [("ip", "-V"), ("tc", "-V"), ("nft", "--version"), ("nsenter", "--version")];
    programs.into_iter().find(|(program, argument)| !there(program, argument)).map(|(program, _)| program)
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    for name in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|owner: i32| !processes::lives(owner)) {
            remove(&name);
        }
    }
}

/// Ends what runs there, then the namespace. One that is gone is fine.
fn remove(name: &str) {
    if let Ok(inside) = Command::new("ip").args(["netns", "pids", name]).stderr(Stdio::null()).output() {
        let pids = String::from_utf8_lossy(&inside.stdout).into_owned();
        let own = std::process::id() as i32;
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own) {
            processes::signal(pid, Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
