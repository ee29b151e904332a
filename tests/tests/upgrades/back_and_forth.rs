//! Fifty upgrades under load with kills at any time: every call is accounted for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use overseer::{CallOptions, Fleet, NotUpgraded, UpgradeOptions};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, probes, within};
use rustix::process::Signal;

use crate::scene::{Outcomes, quick, version};

const ROUNDS: u32 = 50;
const LABORS: usize = 4;
const CALLERS: usize = 8;

/// Calls that each leave a mark of their own; how they came out, and which were answered.
async fn marks(
    fleet: Fleet,
    directory: Arc<Path>,
    over: Arc<AtomicBool>,
    number: Arc<AtomicU64>,
) -> (Outcomes, BTreeMap<u64, bool>) {
    let (mut outcomes, mut calls) = (Outcomes::default(), BTreeMap::new());
    while !over.load(Ordering::Relaxed) {
        let call = number.fetch_add(1, Ordering::Relaxed);
        let payload = serde_json::to_vec(&(directory.join(call.to_string()), call % 4)).unwrap();
        let answer = fleet.call_bytes("mark", payload, CallOptions::default()).await;
        calls.insert(call, answer.is_ok());
        outcomes.count(answer.map(|_| String::new()));
    }
    (outcomes, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_upgrades_under_load_with_random_kills_lose_no_call_and_run_none_twice() {
    let directory = tempfile::tempdir().unwrap();
    let versions = [version("1", &[]), version("2", &[])];
    let one = probes!().release(versions[0].clone()).intensity(10_000, Duration::from_secs(1));
    let (fleet, labors) = TestFleet::with(one, LABORS).await;
    let (over, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let path: Arc<Path> = directory.path().into();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(marks((*fleet).clone(), path.clone(), over.clone(), number.clone())))
        .collect();

    let mut dice = std::process::id();
    let mut random = |n: u32| {
        // Any sequence will do; the id of the process is in the message of a failure.
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 16) % n
    };
    let (mut done, mut back, mut kills) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let present = fleet.release().unwrap().id();
        let next = versions.iter().find(|release| release.id() != present).unwrap();
        let options = UpgradeOptions { batch: Some(2), ..quick() };
        let upgrade = fleet.upgrade_with(Some(next.clone()), options).await.unwrap();
        if random(3) == 0 {
            let role = if random(4) == 0 { Role::Agent } else { Role::Host };
            let labor = &labors[random(LABORS as u32) as usize];
            // Sometimes at once, sometimes while the new one starts.
            for _ in 0..random(2000) {
                tokio::task::yield_now().await;
            }
            if let Some(process) =
                processes::of(fleet.name()).into_iter().find(|p| p.role == role && p.labor == labor.id())
            {
                processes::signal(process.pid, Signal::KILL);
                kills += 1;
            }
        }
        match within("an upgrade", upgrade.done()).await {
            Ok(()) => done += 1,
            Err(NotUpgraded::RolledBack { .. }) => back += 1,
            Err(error) => panic!("{error}"),
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut answered, mut lost) = (0_u64, 0_u64);
    for caller in callers {
        let (outcomes, calls) = within("a caller ends", caller).await.unwrap();
        assert_eq!(outcomes.failed, Vec::<String>::new(), "a call failed for no kill");
        for (call, good) in calls {
            let marks =
                std::fs::read_to_string(path.join(call.to_string())).unwrap_or_default().lines().count();
            assert!(marks <= 1, "call {call} ran {marks} times");
            assert!(!good || marks == 1, "call {call} was answered and did not run");
            *if good { &mut answered } else { &mut lost } += 1;
        }
    }
    println!(
        "{done} upgrades done, {back} rolled back, {kills} kills, {answered} calls answered, {lost} lost"
    );
    assert_eq!(done + back, ROUNDS);
    assert!(back <= kills, "an upgrade was taken back for no kill");
    assert!(lost <= u64::from(kills) * CALLERS as u64, "more were lost than the kills can have cost");
    assert_eq!(number.load(Ordering::Relaxed), answered + lost, "every call is accounted for");
    for labor in &labors {
        within("ready", labor.ready()).await.unwrap();
    }
    fleet.end().await;
}
