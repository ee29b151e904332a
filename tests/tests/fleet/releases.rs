//! Releases that labors must not run.

use std::path::Path;
use std::time::Duration;

use overseer::release::{ReleaseBuilder, SigningKey};
use overseer::{BootPhase, Cause, FleetBuilder, Labor, LaborState, Quiet, Release};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, probe_library, probes, within};
use rustix::process::Signal;

fn packed(directory: &Path, builder: ReleaseBuilder) -> Release {
    let path = directory.join("a.release");
    builder.write(&path).unwrap();
    Release::open(&path).unwrap()
}

/// Why the first lives of a labor ended, after `lives` of them; and that it was not in a hurry.
async fn refused(builder: FleetBuilder<Quiet>, lives: u32) -> Vec<Cause> {
    let fleet = TestFleet::start(builder).await;
    let labor = fleet.start_child().await.unwrap();
    let again = |s: &overseer::Status| s.generation.0 > lives || s.state == LaborState::Terminated;
    within("some lives", labor.wait_for(again)).await;
    let causes = ends(&labor);
    let answer: Result<u32, _> = labor.call("echo", &1).await;
    assert!(answer.is_err());
    fleet.end().await;
    causes
}

fn ends(labor: &Labor) -> Vec<Cause> {
    let history = labor.history();
    let ends = history.iter().filter(|e| e.state == LaborState::Backoff);
    ends.map(|e| e.cause.clone().expect("an end has a cause")).collect()
}

fn load_failure(cause: &Cause) -> &str {
    match cause {
        Cause::BootFailed { phase: BootPhase::Load, reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_release_is_refused_by_the_labor_unless_the_fleet_allows_it() {
    let directory = tempfile::tempdir().unwrap();
    let release = packed(directory.path(), ReleaseBuilder::plugin("probe", "1.0.0", probe_library()));
    let causes = refused(probes!().release(release.clone()), 1).await;
    assert!(load_failure(&causes[0]).contains("sign"), "{causes:?}");
    let (fleet, labor) = TestFleet::with_one(probes!().release(release).allow_unsigned(true)).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_signed_by_a_strange_key_is_refused_unless_the_key_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let key = SigningKey::ephemeral().unwrap();
    let builder = ReleaseBuilder::plugin("probe", "1.0.0", probe_library()).sign(&key);
    let release = packed(directory.path(), builder);
    let causes = refused(probes!().release(release.clone()), 1).await;
    assert!(load_failure(&causes[0]).contains("key"), "{causes:?}");
    let trusting = probes!().release(release).trust(key.public().to_text());
    let (fleet, labor) = TestFleet::with_one(trusting).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_for_other_machines_is_refused() {
    let other =
        ReleaseBuilder::plugin("probe", "1.0.0", probe_library()).target("riscv64gc-unknown-linux-gnu");
    let causes = refused(probes!().release(Release::pack(other).unwrap()), 1).await;
    let reason = load_failure(&causes[0]);
    assert!(reason.contains("riscv64gc"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_none_or_does_not_start_says_why_and_is_tried_again_with_patience() {
    let directory = tempfile::tempdir().unwrap();
    let nonsense = directory.path().join("libnonsense.so");
    std::fs::write(&nonsense, "not a library").unwrap();
    let release = Release::pack(ReleaseBuilder::plugin("nonsense", "1.0.0", nonsense)).unwrap();
    let causes = refused(probes!().release(release), 1).await;
    let Cause::BootFailed { phase: BootPhase::Start, reason } = &causes[0] else { panic!("{causes:?}") };
    assert!(reason.contains("libnonsense.so"), "{reason}");
    let fails = |how: &str| probes!().environment("PROBE_START", how);
    for (how, word) in
        [("fail", "no bolts"), ("panic", "no bolts"), ("exit", "code 3"), ("abort", "signal 6")]
    {
        let causes = refused(fails(how), 1).await;
        assert!(causes[0].to_string().contains(word), "{how}: {causes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_never_gets_ready_is_not_restarted_in_a_storm() {
    let fleet = TestFleet::start(probes!().environment("PROBE_START", "fail")).await;
    let labor = fleet.start_child().await.unwrap();
    within("four lives", labor.wait_for(|s| s.generation.0 == 5)).await;
    let history = labor.history();
    let at = |state| history.iter().filter(move |e| e.state == state).map(|e| e.at_ms);
    let dead = at(LaborState::Backoff);
    let alive = at(LaborState::Requested).skip(1);
    let waits: Vec<u64> = dead.zip(alive).map(|(dead, alive)| alive - dead).collect();
    // Half of 200 ms, doubled each time; the first failure counts as none yet.
    let least = [0, 100, 200, 400];
    assert!(waits.iter().zip(least).all(|(wait, least)| *wait >= least), "{waits:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_while_it_starts_is_ended_at_its_deadline() {
    let start = Duration::from_millis(700);
    let deadlines = overseer::Deadlines { start, ..overseer::Deadlines::default() };
    let builder = probes!().environment("PROBE_START", "hang").deadlines(deadlines);
    let causes = refused(builder, 1).await;
    // Whose clock rings first, the agent's or the fleet's, is open.
    let starting = matches!(
        causes[0],
        Cause::BootTimeout { phase: BootPhase::Start, .. }
            | Cause::BootFailed { phase: BootPhase::Start, .. }
    );
    assert!(starting, "{causes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_not_well_never_gets_ready_and_says_why() {
    let causes = refused(probes!().environment("PROBE_HEALTH", "ill"), 1).await;
    assert!(causes[0].to_string().contains("bolts are loose"), "{causes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_overwritten_in_place_reaches_no_fleet_that_runs() {
    let directory = tempfile::tempdir().unwrap();
    let builder = ReleaseBuilder::plugin("probe", "1.0.0", probe_library());
    let release = packed(directory.path(), builder);
    let (fleet, labor) = TestFleet::with_one(probes!().release(release.clone()).allow_unsigned(true)).await;
    let path = directory.path().join("a.release");
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![7; usize::try_from(length).unwrap()]).unwrap();
    // What its host had unpacked is gone with it.
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).expect("it has an agent");
    processes::signal(agent, Signal::KILL);
    let replaced = |s: &overseer::Status| s.generation.0 == 2 && s.state == LaborState::Ready;
    within("its replacement", labor.wait_for(replaced)).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    let other = probes!().release(release).allow_unsigned(true).start().await;
    let Err(error) = other else { panic!("a fleet runs a release that was overwritten") };
    assert_eq!(error.code(), "release.changed", "{error}");
    fleet.end().await;
}
