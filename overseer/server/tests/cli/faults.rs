use std::path::PathBuf;
use std::time::Instant;

use rustix::process::{Signal, kill_process};

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

/// The labors see the end of their owner by themselves.
fn wait_until_gone(labor: &str) {
    let begun = Instant::now();
    while !processes_of(labor).is_empty() {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", processes_of(labor));
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
