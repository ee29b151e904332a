use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::world::{World, left_in, processes_of};

#[test]
fn an_interrupted_build_leaves_nothing_running() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let world = World::new();
        let repository = world.with_build_file(
            "[jobs.slow]\nsteps = [\"setsid sleep 1000 & trap '' INT TERM; sleep 1000\"]\n[jobs.next]\nneeds = [\"slow\"]\nsteps = [\"true\"]\n",
        );
        let mut build = world.start_build(&repository, &[]);
        let labor = build.wait_for("job_started")["labor"].as_str().unwrap().to_owned();
        build.wait_for("step");
        assert!(!processes_of(&labor).is_empty());
        build.signal(signal);
        let finished = build.wait_for("finished");
        assert_eq!(finished["exit"], code);
        assert_eq!(build.end(), code);
        assert_eq!(processes_of(&labor), []);
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.slow]\nsteps = [\"sleep 1000\"]\n");
    let mut build = world.start_build(&repository, &[]);
    let labor = build.wait_for("job_started")["labor"].as_str().unwrap().to_owned();
    build.wait_for("step");
    let agents: Vec<_> = processes_of(&labor)
        .into_iter()
        .filter(|(_, command)| command.contains("__overseer labor"))
        .collect();
    // A labor that does not even hear of the first one.
    agents.iter().for_each(|(pid, _)| kill_process(*pid, Signal::STOP).unwrap());
    build.signal(Signal::INT);
    build.wait_for_text("stopping");
    build.signal(Signal::INT);
    assert_eq!(build.end(), 130);
    agents.iter().for_each(|(pid, _)| kill_process(*pid, Signal::CONT).unwrap());
    wait_until_gone(&labor);
}

#[test]
fn a_build_that_is_killed_takes_its_labors_with_it() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.slow]\nsteps = [\"sleep 1000\"]\n");
    let mut build = world.start_build(&repository, &[]);
    let labor = build.wait_for("job_started")["labor"].as_str().unwrap().to_owned();
    build.wait_for("step");
    build.signal(Signal::KILL);
    build.end();
    wait_until_gone(&labor);
}

#[test]
fn a_build_that_is_killed_takes_with_it_what_a_step_has_hidden() {
    let world = World::new();
    let told = world.path("told");
    // Without the mark, in a session of its own, and without the parent that has started it.
    let hides = format!("(env -i setsid sleep 1000 & echo $! > {0}.new; mv {0}.new {0})", told.display());
    let repository = world.with_build_file(&format!("[jobs.a]\nsteps = [\"{hides}; sleep 1000\"]\n"));
    let mut build = world.start_build(&repository, &[]);
    let labor = build.wait_for("job_started")["labor"].as_str().unwrap().to_owned();
    let hidden = wait_until("it is hidden", || {
        let pid: i32 = std::fs::read_to_string(&told).ok()?.trim().parse().ok()?;
        // It has become what it is to be.
        (std::fs::read(format!("/proc/{pid}/cmdline")).ok()? == b"sleep\x001000\x00").then_some(pid)
    });
    let _ends = Ends(pidfd_open(Pid::from_raw(hidden).unwrap(), PidfdFlags::empty()).unwrap());
    assert_eq!(std::fs::read(format!("/proc/{hidden}/environ")).unwrap(), b"");
    let stat = std::fs::read_to_string(format!("/proc/{hidden}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(fields[3], hidden.to_string(), "its session: {stat}");
    build.signal(Signal::KILL);
    build.end();
    wait_until("it is gone", || (!Path::new(&format!("/proc/{hidden}")).exists()).then_some(()));
    wait_until_gone(&labor);
}

/// A process that ends with its test.
struct Ends(OwnedFd);

impl Drop for Ends {
    fn drop(&mut self) {
        // It is gone, unless the test has failed.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// The labors see the end of their owner by themselves.
fn wait_until_gone(labor: &str) {
    wait_until("the labors are gone", || processes_of(labor).is_empty().then_some(()));
}

/// Looks again and again until there is something to see.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed().as_secs() < 20, "never seen: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_job_whose_labor_or_process_is_lost_runs_again() {
    for (killed, said) in [("__overseer labor", "labor was lost"), ("__overseer plugin-host", "SIGKILL")] {
        let world = World::new();
        let flag = world.path("flag");
        let repository = world.with_build_file(&format!(
            "[jobs.build]\nsteps = [\"[ -e {0} ] || {{ echo waiting; sleep 1000; }}\", \"echo done > x\"]\nartifacts = [\"x\"]\n",
            flag.display()
        ));
        let mut build = world.start_build(&repository, &[]);
        let labor = build.wait_for("job_started")["labor"].as_str().unwrap().to_owned();
        build.wait_for("log");
        std::fs::write(&flag, "").unwrap();
        let found = processes_of(&labor).into_iter().filter(|(_, command)| command.contains(killed));
        found.for_each(|(pid, _)| kill_process(pid, Signal::KILL).unwrap());
        let lost = build.wait_for("job_lost");
        assert_eq!(lost["again"], true);
        assert!(lost["cause"].as_str().unwrap().contains(said), "{lost}");
        let finished = build.wait_for("job_finished");
        assert_eq!((&finished["result"], &finished["attempts"]), (&"passed".into(), &2.into()));
        assert_eq!(build.end(), 0);
    }
}

#[test]
fn a_fetch_that_hangs_can_be_interrupted() {
    let world = World::new();
    let server = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("git://{}/repo", server.local_addr().unwrap());
    let mut build = world.start_build(url.as_ref(), &[]);
    // Git is connected, and gets no answer.
    let _connection = server.accept().unwrap();
    build.signal(Signal::INT);
    let finished = build.wait_for("finished");
    assert_eq!((&finished["result"], &finished["exit"]), (&"interrupted".into(), &130.into()));
    assert_eq!(build.end(), 130);
    let with_url = std::fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&url)
    });
    assert_eq!(with_url.count(), 0);
}

#[test]
fn a_build_leaves_no_temporary_files() {
    let world = World::new();
    let repository = world.with_build_file("[jobs.build]\nsteps = [\"echo x > x\"]\nartifacts = [\"x\"]\n");
    let temporary = world.path("t");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_overseer"));
    world.run(command.env("TMPDIR", &temporary).arg("build").arg(repository)).exits(0);
    assert_eq!(left_in(&temporary), [""; 0].map(PathBuf::from));
}
