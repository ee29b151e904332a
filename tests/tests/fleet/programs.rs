//! Releases that are programs: what they print, and what their end means for the labor.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use overseer::logs::{LogPiece, LogReader};
use overseer::release::{Release, ReleaseBuilder};
use overseer::{
    Attempt, CallError, CallOptions, Cause, FleetEvent, FleetHandle, Labor, LaborState, LogStream, Quiet,
    Restart, TaskId, WhatNext,
};
use overseer_release::Restart as Again;
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, probe_library, probes, processes, within};

use crate::callbacks::{Diary, Seen};

/// A shell script as a release. `$RUNS` is a file for it to write into, one line for each run.
fn script(directory: &Path, text: &str, again: Again) -> Release {
    let path = directory.join("job.sh");
    std::fs::write(&path, format!("#!/bin/sh\necho run >> $RUNS\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let runs = directory.join("runs").display().to_string();
    Release::pack(ReleaseBuilder::program("job", "1.0.0", path).environment("RUNS", runs).restart(again))
        .unwrap()
}

fn runs(directory: &Path) -> usize {
    std::fs::read_to_string(directory.join("runs")).unwrap_or_default().lines().count()
}

/// What the program of a labor wrote in this run, whole.
async fn written(fleet: &FleetHandle, labor: &Labor, run: u32, stream: &str) -> String {
    let task = TaskId::of_host(labor.id(), labor.status().generation);
    let name = LogStream { task, attempt: Attempt(run), stream: stream.into() };
    let mut reader: LogReader = fleet.logs(name, 0).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = within("a piece of a log", reader.next()).await.unwrap() {
        let LogPiece::Data { bytes, .. } = piece else { panic!("{piece:?}") };
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).unwrap()
}

/// What was said of the program of a fleet, in order.
fn said(diary: &Diary) -> Vec<(String, Option<Cause>)> {
    let event = |seen| match seen {
        Seen::Event(FleetEvent::PluginHost { what, cause, .. }) => Some((what, cause)),
        _ => None,
    };
    diary.read().into_iter().filter_map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_never_restarted_ends_its_labor_with_its_cause_and_all_its_output() {
    let directory = tempfile::tempdir().unwrap();
    let release = script(directory.path(), "seq 100000; echo oh >&2; exit 7", Again::Never);
    let diary = Diary::default();
    let fleet = probes!(diary.clone()).release(release).restart(Restart::Temporary);
    let fleet = TestFleet::start(fleet).await;
    let labor = fleet.start_child().await.unwrap();
    assert_eq!(within("end", labor.terminated()).await, Cause::Exited { code: 7 });
    assert_eq!(runs(directory.path()), 1);
    let output = written(&fleet, &labor, 1, "stdout").await;
    assert_eq!(output.lines().count(), 100_000);
    assert!(output.ends_with("\n100000\n"));
    assert_eq!(written(&fleet, &labor, 1, "stderr").await, "oh\n");
    let ended = Some(Cause::Exited { code: 7 });
    let events = [("exited".to_owned(), ended.clone()), ("gave_up".to_owned(), ended)];
    assert_eq!(said(&diary), events);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_done_ends_its_labor_which_is_replaced_only_where_the_fleet_wants_it() {
    for (restart, again) in [(Restart::Transient, false), (Restart::Permanent, true)] {
        let directory = tempfile::tempdir().unwrap();
        let text = "[ $(wc -l < $RUNS) -ge 2 ] && exec sleep 1000; exit 0";
        let diary = Diary::default();
        let release = script(directory.path(), text, Again::OnFailure);
        let fleet = TestFleet::start(probes!(diary.clone()).release(release).restart(restart)).await;
        let labor = fleet.start_child().await.unwrap();
        let ended = |s: &Seen| match s {
            Seen::Terminated(_, cause, next) => Some((cause.clone(), *next)),
            _ => None,
        };
        let (cause, next) = diary.wait_for("the end", ended).await;
        assert_eq!(cause, Cause::Exited { code: 0 });
        if again {
            assert_eq!(next, WhatNext::Restart { after: 0 });
            within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
            within("ready again", labor.ready()).await.unwrap();
        } else {
            assert_eq!(next, WhatNext::Gone);
            assert_eq!(within("end", labor.terminated()).await, Cause::Exited { code: 0 });
            assert_eq!(labor.status().generation.0, 1);
            assert_eq!(fleet.count_children().await.unwrap().total, 0);
        }
        fleet.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_restarted_on_the_same_labor() {
    let directory = tempfile::tempdir().unwrap();
    let text = "echo before; [ $(wc -l < $RUNS) -ge 2 ] && exec sleep 1000; exit 1";
    let diary = Diary::default();
    let release = script(directory.path(), text, Again::OnFailure);
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone()).release(release)).await;
    eventually("the second run", async || (runs(directory.path()) == 2).then_some(())).await;
    let failed = Some(Cause::Exited { code: 1 });
    let events = [
        ("exited".to_owned(), failed.clone()),
        ("restarting".to_owned(), failed),
        ("started".to_owned(), None),
    ];
    eventually("the restart is told", async || (said(&diary) == events).then_some(())).await;
    // Each run has its own log, and the first one's is complete.
    assert_eq!(written(&fleet, &labor, 1, "stdout").await, "before\n");
    let status = labor.status();
    assert_eq!((status.generation.0, status.state), (1, LaborState::Ready));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_always_ends_is_restarted_up_to_the_limit_and_then_its_labor_ends() {
    let directory = tempfile::tempdir().unwrap();
    let release = script(directory.path(), "exit 0", Again::Always);
    let diary = Diary::default();
    let fleet = probes!(diary.clone()).release(release).restart(Restart::Temporary);
    let fleet = TestFleet::start(fleet).await;
    let labor = fleet.start_child().await.unwrap();
    let cause = within("end", labor.terminated()).await;
    let Cause::Policy { rule } = &cause else { panic!("{cause:?}") };
    assert!(rule.contains("more than 5 times in 30 s: exited with code 0"), "{rule}");
    assert_eq!(runs(directory.path()), 6);
    let all = said(&diary);
    let count = |what: &str| all.iter().filter(|(said, _)| said == what).count();
    assert_eq!((count("exited"), count("restarting"), count("started"), count("gave_up")), (6, 5, 5, 1));
    assert_eq!(all.last().unwrap(), &("gave_up".to_owned(), Some(cause)));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_while_its_labor_is_cut_off_is_not_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let text = format!("while [ ! -e {} ]; do sleep 0.02; done; echo last; exit 3", go.display());
    let release = script(directory.path(), &text, Again::Never);
    let cables = Cables::new(labor!());
    let fleet = builder(Quiet, cables.clone()).release(release).restart(Restart::Temporary);
    let (fleet, labor) = TestFleet::with_one(fleet.grace(Duration::from_secs(3600))).await;
    cables.pull(labor.id());
    within("lost", labor.wait_for(|s| s.state == LaborState::Lost)).await;
    let running = || processes::of(fleet.name()).iter().any(|p| p.role == processes::Role::Other);
    assert!(running());
    std::fs::write(&go, "").unwrap();
    eventually("the program has ended", async || (!running()).then_some(())).await;
    cables.mend(labor.id());
    assert_eq!(within("end", labor.terminated()).await, Cause::Exited { code: 3 });
    assert_eq!(runs(directory.path()), 1);
    assert_eq!(written(&fleet, &labor, 1, "stdout").await, "last\n");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_whose_plugin_is_gone_for_good_takes_no_more_calls_of_the_fleet() {
    let plugin = ReleaseBuilder::plugin("probe", "1.0.0", probe_library()).restart(Again::Never);
    let fleet = probes!().release(Release::pack(plugin).unwrap()).restart(Restart::Temporary);
    let (fleet, labors) = TestFleet::with(fleet, 2).await;
    let [gone, stays] = &labors[..] else { panic!("two were started") };
    let lost = within("an answer", gone.call_bytes("abort", "", CallOptions::default())).await;
    assert!(matches!(lost, Err(CallError::Answered { .. } | CallError::LaborLost { .. })), "{lost:?}");
    assert_eq!(within("end", gone.terminated()).await, Cause::Signal { signal: 6 });
    for number in 0..10u32 {
        assert_eq!(fleet.call::<_, u32>("echo", &number).await.unwrap(), number);
    }
    assert_eq!(fleet.which_children(), std::slice::from_ref(stays));
    fleet.end().await;
}
