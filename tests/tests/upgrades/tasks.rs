//! Stored tasks and a release that is taken back: what it failed is done by the one before, and charged to
//! nobody.

use std::time::Duration;

use overseer::tasks::{AttemptEnd, TaskRecord};
use overseer::{Fleet, NotUpgraded, Release, Retry, Task, TaskOptions, UpgradeOptions};
use overseer_tests::{TestFleet, probes, within};

use crate::scene::version;

/// Submits tasks while a fleet of two changes to `release`, which is taken back; how they have ended.
async fn tasks_of(release: Release, method: &str, payload: &str) -> Vec<TaskRecord> {
    let options = UpgradeOptions { watch: Duration::from_secs(60), ..UpgradeOptions::default() };
    let (fleet, _) = TestFleet::with(probes!().release(version("1", &[])), 2).await;
    let upgrade = fleet.upgrade_with(Some(release), options).await.unwrap();
    let mut tasks = Vec::new();
    let submits = async {
        while !upgrade.status().stage.is_over() {
            tasks.push(submit(&fleet, method, payload).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the upgrade", submits).await;
    let ended = upgrade.done().await;
    assert!(matches!(ended, Err(NotUpgraded::RolledBack { .. })), "{ended:?}");
    let mut records = Vec::new();
    for task in tasks {
        within("a task", task.result_bytes()).await.unwrap();
        records.push(task.record().await.unwrap());
    }
    fleet.end().await;
    records
}

async fn submit<H: overseer::Overseer>(fleet: &Fleet<H>, method: &str, payload: &str) -> Task {
    let options = TaskOptions::default().retry(Retry::default());
    fleet.submit_bytes(method, payload.to_owned(), options).await.unwrap()
}

fn all_spared(records: &[TaskRecord]) {
    let failed: Vec<_> = records.iter().filter(|record| record.attempts > 1).collect();
    assert!(!failed.is_empty(), "none of {} tasks ran on the new release", records.len());
    for record in failed {
        assert_eq!((record.charged, record.suspicion), (0, Default::default()), "{record:?}");
        for past in &record.history {
            assert!(matches!(past.end, AttemptEnd::Answered { .. }), "{record:?}");
            assert!(past.spared.is_some(), "{record:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_a_release_failed_which_is_taken_back_are_not_charged() {
    all_spared(&tasks_of(version("2", &[("PROBE_CALLS", "fail")]), "echo", "7").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_host_died_by_a_release_that_is_taken_back_are_under_no_suspicion() {
    all_spared(&tasks_of(version("2", &[("PROBE_DIES", "1000")]), "sleep", "200").await);
}
