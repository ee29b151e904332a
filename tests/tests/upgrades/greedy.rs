//! Versions that take what is not theirs: they are taken back with a cause that says it, and the one before
//! serves on.

use std::time::Duration;

use overseer::{
    CallOptions, Cause, FleetHandle, Isolation, Labor, NotUpgraded, Quiet, Release, UpgradeOptions,
};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, eventually, parts, probes, within};

use crate::scene::{Load, quick, version};

const MIB: u64 = 1 << 20;

/// A fleet of one that runs version 1 within bounds.
async fn bounded(isolation: Isolation) -> (TestFleet, Labor) {
    let one: overseer::FleetBuilder<Quiet> = probes!().release(version("1", &[]));
    TestFleet::with_one(one.isolation(isolation)).await
}

/// Upgrades to `release`, does something to the labor once it runs that, and gives the cause for which it
/// went back.
async fn taken_back(
    fleet: &TestFleet,
    labor: &Labor,
    release: Release,
    options: UpgradeOptions,
    provoke: Option<&str>,
) -> Cause {
    let load = Load::on(fleet, 2);
    let mut upgrade = fleet.upgrade_with(Some(release), options).await.unwrap();
    if let Some(method) = provoke {
        let changed = async { while upgrade.status().changed == 0 && upgrade.changed().await.is_ok() {} };
        within("it runs the new version", changed).await;
        let answer = within(method, labor.call_bytes(method, "null", CallOptions::default())).await;
        assert!(answer.is_err(), "{method}: {answer:?}");
    }
    let ended = within("the upgrade", upgrade.done()).await;
    let Err(NotUpgraded::RolledBack { cause }) = ended else { panic!("{ended:?}") };
    let outcomes = load.end().await;
    assert_eq!(outcomes.failed, Vec::<String>::new());
    assert!(outcomes.by("1") > 0, "{outcomes:?}");
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "1");
    assert_eq!(labor.status().generation.0, 1, "the same life");
    only_one_host(fleet).await;
    cause
}

async fn only_one_host(fleet: &FleetHandle) {
    let hosts = || processes::of(fleet.name()).into_iter().filter(|p| p.role == Role::Host).count();
    eventually("only version 1 is left", async || (hosts() == 1).then_some(())).await;
}

fn watched() -> UpgradeOptions {
    UpgradeOptions { watch: Duration::from_secs(60), ..quick() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_allocates_without_end_is_taken_back_for_its_memory() {
    if !parts::has_groups() {
        return;
    }
    let isolation = Isolation { memory: Some(64 * MIB), required: true, ..Isolation::default() };
    let (fleet, labor) = bounded(isolation).await;
    let starts = version("2", &[("PROBE_START", "allocate")]);
    assert_eq!(taken_back(&fleet, &labor, starts, quick(), None).await, Cause::OutOfMemory);
    let cause = taken_back(&fleet, &labor, version("3", &[]), watched(), Some("allocate")).await;
    assert_eq!(cause, Cause::OutOfMemory);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_opens_every_descriptor_is_taken_back_with_what_it_says() {
    let (fleet, labor) = bounded(Isolation { open_files: Some(64), ..Isolation::default() }).await;
    let two = version("2", &[("PROBE_START", "open_all")]);
    let cause = taken_back(&fleet, &labor, two, quick(), None).await;
    assert!(cause.to_string().contains("Too many open files"), "{cause}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_taken_back_and_ignores_its_stop_is_ended() {
    let (fleet, labor) = bounded(Isolation::default()).await;
    let two = version("2", &[("PROBE_STOP", "hang"), ("PROBE_CALLS", "fail")]);
    let upgrade = fleet.upgrade_with(Some(two), watched()).await.unwrap();
    let calls = async {
        while !upgrade.status().stage.is_over() {
            let _ = fleet.call::<_, String>("echo", "x").await;
        }
    };
    within("the upgrade", calls).await;
    assert!(matches!(upgrade.done().await, Err(NotUpgraded::RolledBack { .. })));
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "1");
    only_one_host(&fleet).await;
    fleet.end().await;
}
