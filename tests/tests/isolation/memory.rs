//! A plugin that allocates without end.

use std::path::{Path, PathBuf};

use overseer::release::{Mode, Release, ReleaseBuilder};
use overseer::tasks::AttemptEnd;
use overseer::{CallError, CallOptions, Cause, Isolation, Restart, TaskError, TaskFailure, TaskOptions};
use overseer_protocol::CallErrorCode;
use overseer_release::Restart as Again;
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, parts, probe_library, probes, processes, within};
use rustix::process::Signal;

use crate::{Ends, MIB, ask, goes_on, nobody, none, provoke};

#[tokio::test(flavor = "multi_thread")]
async fn who_allocates_without_end_is_out_of_memory_and_nobody_else_notices() {
    if !parts::has_groups() {
        return;
    }
    let ends = Ends::default();
    let isolation = Isolation { memory: Some(64 * MIB), required: true, ..none() };
    let (fleet, labors) = TestFleet::with(probes!(ends.clone()).isolation(isolation), 2).await;
    let [greedy, modest] = &labors[..] else { panic!("two were started") };
    let (before, other): (u32, u32) = (ask(greedy, "pid", &()).await, ask(modest, "pid", &()).await);
    let agent = processes::one(fleet.name(), greedy.id(), Role::Agent);
    let ids = [greedy.id(), modest.id()].map(|id| id.to_string());
    assert_eq!(parts::groups_of(&ids[0]).len(), 1);
    provoke(greedy, "allocate").await;
    assert_eq!(ends.count(1).await, [Cause::OutOfMemory]);
    goes_on(greedy, before).await;
    assert_eq!(processes::one(fleet.name(), greedy.id(), Role::Agent), agent);
    assert_eq!(ask::<u32>(modest, "pid", &()).await, other);
    // Each host has a group of its own, and the one that ended has none any more.
    assert_eq!(parts::groups_of(&ids[0]).len(), 1);
    // Another kill is another cause.
    processes::signal(i32::try_from(other).unwrap(), Signal::KILL);
    assert_eq!(ends.count(2).await, [Cause::OutOfMemory, Cause::Signal { signal: 9 }]);
    fleet.end().await;
    for id in ids {
        assert_eq!(parts::groups_of(&id), Vec::<PathBuf>::new());
    }
}

/// A shell script, run once for each call: the method is what it does.
fn script(directory: &Path) -> Release {
    let path = directory.join("job.sh");
    std::fs::write(&path, "#!/bin/sh\necho begun >&2; eval \"$OVERSEER_METHOD\"\n").unwrap();
    let program = ReleaseBuilder::program("job", "1.0.0", path).mode(Mode::Run { concurrency: 2 });
    Release::pack(program).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_a_call_that_is_killed_for_memory_fails_it_with_that_cause_and_its_host_goes_on() {
    if !parts::has_groups() {
        return;
    }
    let (ends, directory) = (Ends::default(), tempfile::tempdir().unwrap());
    let isolation = Isolation { user: nobody(), memory: Some(64 * MIB), required: true, ..none() };
    let fleet = probes!(ends.clone()).release(script(directory.path())).isolation(isolation);
    let (fleet, labor) = TestFleet::with_one(fleet).await;
    let host = processes::one(fleet.name(), labor.id(), Role::Host).unwrap();
    let fails = async |method: &str| {
        let failed = within(method, labor.call_bytes(method, "", CallOptions::default())).await;
        let Err(CallError::Answered { code, message, cause, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(code, CallErrorCode::Failed);
        assert!(message.contains("begun"), "{message}");
        (message, cause)
    };
    let other = labor.start_call("sleep 3600", "", CallOptions::default()).await.unwrap();
    // A line without an end is kept whole: by the program itself, and by one that a shell has started.
    for method in ["exec tail /dev/zero", "tail /dev/zero; exit $?"] {
        let (message, cause) = fails(method).await;
        assert!(message.contains("out of memory"), "{message}");
        assert_eq!(cause, Some(Cause::OutOfMemory), "{method}");
    }
    // Another kill is another cause, also where there has been one for memory.
    for (method, said) in [("kill -KILL $$", "signal 9"), ("exit 137", "exited with code 137")] {
        let (message, cause) = fails(method).await;
        assert!(message.contains(said), "{message}");
        assert_eq!(cause, None, "{method}");
    }
    let task = fleet.submit_bytes("exec tail /dev/zero", "", TaskOptions::default()).await.unwrap();
    let end = within("its end", task.result_bytes()).await;
    let Err(TaskError::Failed(TaskFailure::Answered { cause, .. })) = end else { panic!("{end:?}") };
    assert_eq!(cause, Some(Cause::OutOfMemory));
    let record = task.record().await.unwrap();
    let AttemptEnd::Answered { cause, .. } = &record.history[0].end else { panic!("{record:?}") };
    assert_eq!(*cause, Some(Cause::OutOfMemory));
    assert_eq!(processes::one(fleet.name(), labor.id(), Role::Host), Some(host));
    processes::signal(host, Signal::KILL);
    assert!(within("its answer", other.answer()).await.is_err());
    assert_eq!(ends.count(1).await, [Cause::Signal { signal: 9 }]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_ends_for_memory_says_so() {
    if !parts::has_groups() {
        return;
    }
    let release = ReleaseBuilder::plugin("probe", "1.0.0", probe_library()).restart(Again::Never);
    let isolation = Isolation { user: nobody(), memory: Some(64 * MIB), ..none() };
    let fleet = probes!().release(Release::pack(release).unwrap()).restart(Restart::Temporary);
    let (fleet, labor) = TestFleet::with_one(fleet.isolation(isolation)).await;
    provoke(&labor, "allocate").await;
    assert_eq!(within("end", labor.terminated()).await, Cause::OutOfMemory);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_an_agent_that_is_killed_go_with_it() {
    if !parts::has_groups() {
        return;
    }
    let isolation =
        Isolation { memory: Some(64 * MIB), cpu_milli: Some(2000), processes: Some(64), ..none() };
    let fleet = probes!().isolation(isolation).restart(Restart::Temporary);
    let (fleet, labor) = TestFleet::with_one(fleet).await;
    let id = labor.id().to_string();
    assert!(!parts::groups_of(&id).is_empty());
    // Its parent is another, and it carries no mark: nothing else tells whose it was.
    let hidden: i32 = ask(&labor, "hidden", &()).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::KILL);
    within("end", labor.terminated()).await;
    assert!(!processes::lives(hidden));
    assert_eq!(parts::groups_of(&id), Vec::<PathBuf>::new());
    fleet.end().await;
}
