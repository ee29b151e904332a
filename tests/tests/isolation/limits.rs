//! Plugins that use all there is of descriptors, processes, files and processors.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use overseer::{CallOptions, Cause, Deadlines, Isolation, Restart};
use overseer_tests::{TestFleet, eventually, parts, probes, processes, within};
use rustix::io::Errno;

use crate::{Ends, ask, nobody, none, provoke};

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_every_descriptor_finds_no_more_and_agent_and_host_go_on() {
    let isolation = Isolation { open_files: Some(64), ..none() };
    let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
    let before: u32 = ask(&labor, "pid", &()).await;
    for _ in 0..3 {
        let (opened, error): (usize, Option<i32>) = ask(&labor, "open_all", &()).await;
        assert_eq!(error, Some(Errno::MFILE.raw_os_error()));
        assert!((20..64).contains(&opened), "{opened}");
    }
    assert_eq!(ask::<u32>(&labor, "pid", &()).await, before);
    fleet.end().await;
}

/// One host takes all that it may: the other labor, of the same user, has as many.
#[tokio::test(flavor = "multi_thread")]
async fn who_starts_processes_without_end_is_held_and_leaves_none() {
    if !parts::has_groups() {
        return;
    }
    let isolation = Isolation { processes: Some(40), required: true, ..none() };
    let (fleet, labors) = TestFleet::with(probes!().isolation(isolation), 2).await;
    for labor in &labors {
        let (started, error): (usize, Option<i32>) = ask(labor, "start_all", &()).await;
        assert_eq!(error, Some(Errno::AGAIN.raw_os_error()));
        assert!((20..40).contains(&started), "{started}");
    }
    let others = || processes::of(fleet.name()).iter().filter(|p| p.role == processes::Role::Other).count();
    assert!(others() >= 40);
    // All of a host's end with it, also those that the next one would have no room beside.
    for labor in &labors {
        provoke(labor, "abort").await;
    }
    eventually("none is left", async || (others() == 0).then_some(())).await;
    for labor in &labors {
        eventually("a new host", async || labor.call::<_, u32>("pid", &()).await.ok()).await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_may_be_as_large_as_is_said_and_who_writes_more_is_ended_by_a_signal() {
    let isolation = Isolation { file_size: Some(1 << 20), core: Some(0), ..none() };
    let (fleet, labor) =
        TestFleet::with_one(probes!().isolation(isolation).restart(Restart::Temporary)).await;
    let (directory, _): (PathBuf, PathBuf) = ask(&labor, "directory", &()).await;
    let file = directory.join("file");
    assert_eq!(ask::<u64>(&labor, "write", &(&file, 1 << 20)).await, 1 << 20);
    let pid: u32 = ask(&labor, "pid", &()).await;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let more = labor.call::<_, u64>("write", &(&file, (1 << 20) + 1)).await;
    assert!(more.is_err(), "{more:?}");
    assert!(file.metadata().unwrap().len() <= 1 << 20);
    fleet.end().await;
}

/// The time that a process and its threads have had of processors, in ticks of a hundredth of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_spins_has_no_more_of_a_processor_than_is_said() {
    if !parts::has_groups() {
        return;
    }
    let isolation = Isolation { cpu_milli: Some(100), required: true, ..none() };
    let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
    let pid: u32 = ask(&labor, "pid", &()).await;
    let _spins = labor.start_call("spin", "null", CallOptions::default()).await.unwrap();
    let (start, before) = (Instant::now(), ticks(pid));
    eventually("it has spun for a while", async || (ticks(pid) > before + 20).then_some(())).await;
    // A tenth of a core, and twice that for what is measured coarsely: without a limit it would be ten.
    let (had, of) = (ticks(pid) - before, start.elapsed().as_millis() as u64 / 10);
    assert!(had * 5 < of, "{had} ticks of {of}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_stop_is_killed_and_its_node_ends_all_the_same() {
    let deadlines = Deadlines { stop: Duration::from_secs(20), ..Deadlines::default() };
    let user = if parts::has_root() { nobody() } else { None };
    let isolation = Isolation { user, open_files: Some(256), ..none() };
    let ends = Ends::default();
    let fleet = probes!(ends.clone()).isolation(isolation).environment("PROBE_STOP", "hang");
    let (fleet, labor) = TestFleet::with_one(fleet.deadlines(deadlines)).await;
    let host = processes::one(fleet.name(), labor.id(), processes::Role::Host).unwrap();
    fleet.terminate_child(labor.id());
    assert_eq!(within("end", labor.terminated()).await, Cause::Asked);
    assert_eq!(ends.count(1).await, [Cause::Hung { after_ms: 5000 }]);
    assert!(!processes::lives(host));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_under_which_no_host_starts_are_refused_before_anything_is() {
    let isolation = Isolation { open_files: Some(3), ..none() };
    let refused = probes!().isolation(isolation).start().await.err().expect("it is refused");
    assert_eq!(refused.code(), "isolation.too_low");
    assert!(refused.to_string().contains("open_files"), "{refused}");
}

/// The least of everything, which the documentation promises to be enough.
pub(crate) fn least() -> Isolation {
    Isolation {
        memory: Some(Isolation::LEAST_MEMORY),
        cpu_milli: Some(Isolation::LEAST_CPU_MILLI),
        processes: Some(Isolation::LEAST_PROCESSES),
        open_files: Some(Isolation::LEAST_OPEN_FILES),
        ..none()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_starts_with_the_least_of_everything() {
    if !parts::has_groups() {
        return;
    }
    let isolation = Isolation { required: true, ..least() };
    let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
    assert_eq!(ask::<u32>(&labor, "echo", &1).await, 1);
    fleet.end().await;
}
