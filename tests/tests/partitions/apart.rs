//! A labor that is cut off, and whose machine nobody else reaches either.

use std::time::{Duration, Instant};

use overseer_tests::eventually;
use overseer_tests::namespaces::Fault;

use crate::scene::{GRACE, HEARTBEAT, LEASE, SILENCE, play};

/// For a busy machine: how much later than it should something may be seen.
const SLACK: Duration = Duration::from_secs(10);

/// Nobody can end it, so it has to end by itself; then it is replaced.
fn outlasts(fault: Fault) {
    let options = |b: overseer_tests::Built<overseer::Quiet>| {
        b.heartbeat(HEARTBEAT).silence(SILENCE).grace(GRACE).lease(LEASE)
    };
    play(options, async move |scene| {
        let victim = scene.labors[0].clone();
        let life = victim.status().generation;
        assert!(!scene.processes(&victim, life.0).is_empty());
        let cut = Instant::now();
        scene.seats.harm(victim.id(), fault);
        eventually("the node that was cut off has ended", async || {
            scene.processes(&victim, life.0).is_empty().then_some(())
        })
        .await;
        let took = cut.elapsed();
        println!("{fault:?}: nothing of it runs after {} ms", took.as_millis());
        assert!(took < LEASE + GRACE + SLACK, "it ran for {took:?}");
        // The others go on meanwhile.
        scene.work_goes_on().await;
        scene.seats.heal(victim.id());
        eventually("it is replaced", async || (victim.status().generation > life).then_some(())).await;
        scene.ends_well().await;
    });
}

#[test]
fn a_labor_that_is_cut_off_ends_with_its_lease_and_is_replaced() {
    outlasts(Fault::Cut);
}

#[test]
fn a_labor_that_is_not_heard_ends_with_its_lease_and_is_replaced() {
    outlasts(Fault::FromAgent);
}

#[test]
fn a_labor_that_hears_nothing_ends_with_its_lease_and_is_replaced() {
    outlasts(Fault::ToAgent);
}

#[test]
fn a_labor_that_is_cut_off_for_a_moment_goes_on_as_it_is() {
    let options = |b: overseer_tests::Built<overseer::Quiet>| {
        b.heartbeat(HEARTBEAT).silence(SILENCE).grace(Duration::from_secs(60)).lease(Duration::from_secs(120))
    };
    play(options, async move |scene| {
        let victim = scene.labors[0].clone();
        let life = victim.status().generation;
        let before = scene.processes(&victim, life.0);
        scene.seats.harm(victim.id(), Fault::Cut);
        eventually("it is missed", async || {
            (victim.status().state == overseer::LaborState::Lost).then_some(())
        })
        .await;
        scene.seats.heal(victim.id());
        eventually("it is back", async || {
            (victim.status().state == overseer::LaborState::Ready).then_some(())
        })
        .await;
        assert_eq!(victim.status().generation, life);
        assert_eq!(scene.processes(&victim, life.0), before);
        scene.ends_well().await;
    });
}
