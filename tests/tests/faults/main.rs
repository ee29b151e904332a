//! Two hundred random faults under load: every call is answered once and truly, no process and
//! no slot is left. `FAULT_SEED=n` plays the same faults again.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use overseer::Quiet;
use overseer_tests::load::Load;
use overseer_tests::proxy::Cables;
use overseer_tests::steps::{Kind, Random, Steps};
use overseer_tests::{TestFleet, builder, eventually, labor, processes, within};

const LABORS: usize = 4;
const STEPS: usize = 200;
/// Calls at a time, and fewest at a fault.
const CALLERS: usize = 24;
const IN_FLIGHT: usize = 20;
/// Fewest faults of each kind that must have hit something.
const HITS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_loses_a_call_doubles_one_or_leaves_anything_behind() {
    let mut random = Random::from_environment();
    println!("FAULT_SEED={}", random.seed());
    let cables = Cables::new(labor!());
    let ms = Duration::from_millis;
    let builder = builder(Quiet, cables.clone())
        .max_nodes(LABORS)
        .intensity(u32::MAX, ms(60_000))
        .heartbeat(ms(100))
        .silence(ms(700))
        .grace(ms(700));
    let (fleet, _) = TestFleet::with(builder, LABORS).await;
    let load = Load::start(&fleet, CALLERS, random.bits());
    let steps = Steps::new(&fleet, cables);
    let mut hits: BTreeMap<Kind, usize> = BTreeMap::new();
    for _ in 0..STEPS {
        eventually("enough calls are in flight", async || (load.in_flight() >= IN_FLIGHT).then_some(()))
            .await;
        let kind = Kind::ALL[random.below(Kind::ALL.len())];
        if steps.take(kind, &mut random).await {
            *hits.entry(kind).or_default() += 1;
        }
        let count = fleet.count_children().await.unwrap();
        assert!(count.total <= LABORS, "{count:?}");
    }
    steps.thaw();
    let report = within("every call is answered", load.finish()).await;
    println!("{hits:?}\n{report}");
    report.check();

    // All slots are taken by labors that work, and by nothing else.
    eventually("all labors are ready", async || {
        let count = fleet.count_children().await.unwrap();
        assert!(count.total <= LABORS, "{count:?}");
        (count.total == LABORS && count.ready == LABORS).then_some(())
    })
    .await;
    let labors = fleet.which_children();
    assert_eq!(labors.len(), LABORS);
    for labor in &labors {
        assert_eq!(within("an answer", labor.call::<_, u32>("echo", &1)).await.unwrap(), 1);
    }
    let agents = processes::of(fleet.name()).into_iter().filter(|p| p.role == processes::Role::Agent);
    assert_eq!(agents.count(), LABORS);
    let stopped = (*fleet).clone();
    fleet.end().await;
    assert!(stopped.which_children().is_empty() && stopped.count_children().await.is_err());
    for kind in Kind::ALL {
        assert!(hits.get(&kind).is_some_and(|n| *n >= HITS), "too few faults of a kind: {hits:?}");
    }
}
