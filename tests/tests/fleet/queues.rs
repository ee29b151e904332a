//! Calls to the fleet: who gets them, how long they wait, and what happens when there are too many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use overseer::{CallError, CallErrorCode, CallOptions, LaborState};
use overseer_tests::{TestFleet, eventually, probes, within};

fn code(error: &CallError) -> Option<CallErrorCode> {
    match error {
        CallError::Answered { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_to_the_least_loaded_labor() {
    let (fleet, labors) = TestFleet::with(probes!(), 4).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(fleet.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap());
    }
    let mut shares = BTreeMap::new();
    open.iter().for_each(|call| *shares.entry(call.labor()).or_insert(0) += 1);
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [4, 4, 4, 4]);
    // One of them has time again.
    let idle = labors[2].id();
    open.retain(|call| call.labor() != idle);
    for _ in 0..4 {
        let call = fleet.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
        assert_eq!(call.labor(), idle);
        open.push(call);
    }
    drop(open);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_labor_to_become_ready() {
    let fleet = TestFleet::start(probes!()).await;
    let waits = tokio::spawn({
        let fleet = (*fleet).clone();
        async move { fleet.call::<_, u32>("echo", &7).await }
    });
    let labor = fleet.start_child().await.unwrap();
    assert_eq!(within("an answer", waits).await.unwrap().unwrap(), 7);
    assert_eq!(labor.status().state, LaborState::Ready);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_any_labor_ends_at_its_queue_deadline() {
    let fleet = TestFleet::start(probes!()).await;
    let queue = Duration::from_millis(200);
    let start = Instant::now();
    let answer = fleet.call_bytes("echo", "1", CallOptions::default().queue(queue)).await;
    assert_eq!(answer.unwrap_err(), CallError::NoLabor { waited: queue });
    assert!(start.elapsed() >= queue);
    let cast = fleet.cast("echo", &1).await;
    assert!(matches!(cast, Err(CallError::NoLabor { .. })), "{cast:?}");
    assert!(fleet.broadcast::<_, u32>("echo", &1).await.is_empty());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_running_have_deadlines_of_their_own() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let short = Duration::from_millis(200);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap());
    }
    let late = within("an answer", labor.call_bytes("echo", "1", CallOptions::default().queue(short))).await;
    assert_eq!(code(&late.unwrap_err()), Some(CallErrorCode::QueueDeadline));
    // The run deadline does not run while a call waits.
    let waits = labor.start_call("echo", "1", CallOptions::default().run(short)).await.unwrap();
    let late = within("an answer", labor.call_bytes("echo", "1", CallOptions::default().queue(short))).await;
    assert!(late.is_err());
    drop(open);
    assert_eq!(&within("an answer", waits.answer()).await.unwrap()[..], b"1");
    // And it ends a call that runs longer.
    let runs = labor.call_bytes("wait_cancel", "600000", CallOptions::default().run(short));
    assert_eq!(code(&within("an answer", runs).await.unwrap_err()), Some(CallErrorCode::RunDeadline));
    // Without one it may run on.
    let free = CallOptions::default().run(None);
    assert!(within("an answer", labor.call_bytes("sleep", "300", free)).await.is_ok());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_deadline_that_the_plugin_ignores_costs_its_host_and_nothing_else() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let short = CallOptions::default().run(Duration::from_millis(200));
    let error = within("an answer", labor.call_bytes("spin", "", short)).await.unwrap_err();
    assert_eq!(code(&error), Some(CallErrorCode::RunDeadline), "{error}");
    assert_eq!(within("an answer", labor.call::<_, u32>("echo", &1)).await.unwrap(), 1);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_are_refused_and_every_one_is_answered() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let mut open = Vec::new();
    let mut refused_here = 0;
    for _ in 0..9000 {
        match labor.start_call("sleep", "1", CallOptions::default()).await {
            Ok(call) => open.push(call),
            Err(CallError::Overloaded { .. }) => refused_here += 1,
            Err(other) => panic!("{other}"),
        }
    }
    let (mut ran, mut refused_there) = (0, 0);
    let total = open.len();
    for call in open {
        match within("an answer", call.answer()).await {
            Ok(_) => ran += 1,
            Err(error) if code(&error) == Some(CallErrorCode::Overloaded) => refused_there += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{ran} ran, {refused_there} were refused by the labor, {refused_here} by the fleet");
    assert_eq!(ran + refused_there, total);
    assert!(ran > 0 && total + refused_here == 9000);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_calls_at_once_get_their_own_answers() {
    let (fleet, _) = TestFleet::with(probes!(), 3).await;
    let calls: Vec<_> = (0..1000u32)
        .map(|number| {
            let fleet = (*fleet).clone();
            tokio::spawn(async move { (number, fleet.call::<_, u32>("echo", &number).await) })
        })
        .collect();
    for call in calls {
        let (number, answer) = within("an answer", call).await.unwrap();
        assert_eq!(answer.unwrap(), number);
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_every_ready_labor_and_a_cast_has_no_answer() {
    let (fleet, labors) = TestFleet::with(probes!(), 3).await;
    let answers = fleet.broadcast::<_, String>("echo", "all").await;
    let who: Vec<_> = answers.iter().map(|(labor, _)| labor.clone()).collect();
    assert_eq!(who, labors, "in order of age");
    assert!(answers.iter().all(|(_, answer)| answer.as_deref() == Ok("all")));
    let directory = tempfile::tempdir().unwrap();
    for (number, labor) in labors.iter().enumerate() {
        labor.cast("mark", &(directory.path().join(number.to_string()), 0)).await.unwrap();
    }
    fleet.cast("mark", &(directory.path().join("any"), 0)).await.unwrap();
    eventually("all four marks", async || {
        (std::fs::read_dir(directory.path()).unwrap().count() == 4).then_some(())
    })
    .await;
    // A cast that fails disturbs nobody.
    fleet.cast("panic", "cast").await.unwrap();
    assert_eq!(fleet.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn casts_of_a_fleet_are_spread_and_one_that_is_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (fleet, labors) = TestFleet::with(probes!(), 3).await;
    for n in 0..12 {
        let mark = directory.path().join(n.to_string());
        fleet.cast("mark", &(mark, 0)).await.unwrap();
    }
    eventually("all have run", async || {
        (std::fs::read_dir(directory.path()).unwrap().count() == 12).then_some(())
    })
    .await;
    let large = "x".repeat(300 * 1024);
    let refused = labors[0].cast("echo", &large).await;
    let Err(CallError::TooLarge { size, limit }) = refused else { panic!("{refused:?}") };
    assert!(size > limit && limit == 256 * 1024);
    assert!(fleet.cast("echo", &large).await.is_err());
    fleet.end().await;
}
