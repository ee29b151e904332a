//! Releases that do no good: the one before serves on, and the cause is said.

use std::time::Duration;

use overseer::release::ReleaseBuilder;
use overseer::{Cause, Deadlines, NotUpgraded, Release, UpgradeOptions};
use overseer_tests::{TestFleet, probe_library, probes, within};

use crate::scene::{Load, quick, version};

/// Upgrades a fleet of two that is called to `release`, which does not work out; the cause, and how
/// many calls were lost.
async fn rolled_back(release: Release, options: UpgradeOptions) -> (Cause, u64) {
    let deadlines =
        Deadlines { start: Duration::from_secs(5), load: Duration::from_secs(15), ..Default::default() };
    let one = probes!().release(version("1", &[])).deadlines(deadlines);
    let (fleet, labors) = TestFleet::with(one, 2).await;
    let load = Load::on(&fleet, 4);
    let upgrade = fleet.upgrade_with(Some(release), options).await.unwrap();
    let ended = within("the upgrade", upgrade.done()).await;
    let Err(NotUpgraded::RolledBack { cause }) = ended else { panic!("{ended:?}") };
    let outcomes = load.end().await;
    let failures = outcomes.failed.iter().filter(|failure| !failure.contains("out of bolts"));
    assert_eq!(failures.collect::<Vec<_>>(), Vec::<&String>::new());
    for labor in &labors {
        assert_eq!(labor.status().generation.0, 1, "no labor was lost");
        assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "1");
    }
    fleet.end().await;
    (cause, outcomes.lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_start_is_taken_back() {
    for (how, code) in
        [("panic", "panicked"), ("fail", "boot_failed"), ("exit", "exited"), ("hang", "boot_timeout")]
    {
        let (cause, lost) = rolled_back(version("2", &[("PROBE_START", how)]), quick()).await;
        assert_eq!((cause.code(), lost), (code, 0), "{how}: {cause}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_well_is_taken_back() {
    let (cause, lost) = rolled_back(version("2", &[("PROBE_HEALTH", "ill")]), quick()).await;
    assert_eq!((cause.code(), lost), ("unhealthy", 0), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_well_for_a_second_and_then_crashes_is_taken_back() {
    let watched = UpgradeOptions { watch: Duration::from_secs(30), ..UpgradeOptions::default() };
    let (cause, _) = rolled_back(version("2", &[("PROBE_DIES", "1000")]), watched).await;
    assert_eq!(cause, Cause::Signal { signal: 6 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_too_many_calls_is_taken_back() {
    let watched = UpgradeOptions { watch: Duration::from_secs(30), ..UpgradeOptions::default() };
    let one = probes!().release(version("1", &[]));
    let (fleet, _) = TestFleet::with(one, 2).await;
    let upgrade = fleet.upgrade_with(Some(version("2", &[("PROBE_CALLS", "fail")])), watched).await.unwrap();
    let calls = async {
        while !upgrade.status().stage.is_over() {
            let _ = fleet.call::<_, String>("echo", "x").await;
        }
    };
    within("the upgrade", calls).await;
    let ended = upgrade.done().await;
    let Err(NotUpgraded::RolledBack { cause: Cause::Policy { rule } }) = ended else { panic!("{ended:?}") };
    let said = "calls failed with the new release, the last one by this: failed: out of bolts";
    assert!(rule.contains(said), "{rule}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_others_have_signed_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("2.release");
    let builder = ReleaseBuilder::plugin("probe-plugin", "2.0.0", probe_library());
    let stranger = overseer::release::SigningKey::ephemeral().unwrap();
    builder.sign(&stranger).write(&path).unwrap();
    let (cause, lost) = rolled_back(Release::open(&path).unwrap(), quick()).await;
    assert!(cause.to_string().contains("release.signature_unknown"), "{cause}");
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_that_does_not_stop_is_ended_and_keeps_nobody() {
    let one = probes!().release(version("1", &[("PROBE_STOP", "hang")]));
    let (fleet, labor) = TestFleet::with_one(one).await;
    let before: u32 = labor.call("pid", &()).await.unwrap();
    let upgrade = fleet.upgrade_with(Some(version("2", &[])), quick()).await.unwrap();
    within("the upgrade", upgrade.done()).await.unwrap();
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "2");
    let left = || overseer_tests::processes::of(fleet.name()).iter().any(|p| p.pid.cast_unsigned() == before);
    overseer_tests::eventually("it is ended", async || (!left()).then_some(())).await;
    fleet.end().await;
}
