//! What one version leaves to the next.

use overseer::{NotUpgraded, Release};
use overseer_tests::{TestFleet, probes, within};

use crate::scene::{Load, described, quick, version};

fn takes_over(version: &str, variables: &[(&str, &str)]) -> Release {
    Release::pack(described(version, variables).handover(true)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_starts_with_what_the_one_before_has_left_and_no_call_fails() {
    let one = probes!().release(version("1", &[("PROBE_LEAVES", "41 bolts")]));
    let (fleet, labors) = TestFleet::with(one, 2).await;
    let load = Load::on(&fleet, 4);
    let upgrade = fleet.upgrade_with(Some(takes_over("2", &[])), quick()).await.unwrap();
    within("the upgrade", upgrade.done()).await.unwrap();
    let outcomes = load.end().await;
    assert_eq!((outcomes.lost, &outcomes.failed[..]), (0, &[][..]));
    for labor in &labors {
        let inherited: Option<String> = labor.call("inherited", &()).await.unwrap();
        assert_eq!(inherited.as_deref(), Some("41 bolts"));
    }
    // One that wants nothing starts beside it, and gets nothing.
    let upgrade = fleet.upgrade_with(Some(version("3", &[])), quick()).await.unwrap();
    within("the upgrade", upgrade.done()).await.unwrap();
    assert_eq!(labors[0].call::<_, Option<String>>("inherited", &()).await.unwrap(), None);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_new_version_does_not_start_the_old_one_goes_on_with_what_it_has_left() {
    let one = probes!().release(version("1", &[("PROBE_LEAVES", "41 bolts")]));
    let (fleet, labor) = TestFleet::with_one(one).await;
    let load = Load::on(&fleet, 2);
    let upgrade =
        fleet.upgrade_with(Some(takes_over("2", &[("PROBE_START", "fail")])), quick()).await.unwrap();
    let ended = within("the upgrade", upgrade.done()).await;
    assert!(matches!(ended, Err(NotUpgraded::RolledBack { .. })), "{ended:?}");
    let inherited: Option<String> = labor.call("inherited", &()).await.unwrap();
    assert_eq!(inherited.as_deref(), Some("41 bolts"));
    let outcomes = load.end().await;
    assert_eq!((outcomes.lost, &outcomes.failed[..]), (0, &[][..]));
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}
