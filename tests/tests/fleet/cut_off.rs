//! Labors that go silent or lose their connection.

use std::time::Duration;

use overseer::{CallError, CallOptions, Cause, FleetBuilder, LaborState, Overseer, Quiet};
use overseer_tests::processes::Role;
use overseer_tests::proxy::Cables;
use overseer_tests::{TestFleet, builder, eventually, labor, probes, processes, within};
use rustix::process::Signal;

use crate::callbacks::{Diary, Seen};

/// Silence is noticed soon.
fn watchful<H: Overseer>(builder: FleetBuilder<H>) -> FleetBuilder<H> {
    let ms = Duration::from_millis;
    builder.heartbeat(ms(100)).silence(ms(1000)).grace(ms(1000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_labor_is_lost_then_replaced_and_the_old_one_is_gone() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(watchful(probes!(diary.clone()))).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    let host = processes::one(fleet.name(), labor.id(), Role::Host).unwrap();
    let open = labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
    processes::signal(agent, Signal::STOP);
    let lost = within("the open call fails", open.answer()).await;
    assert!(matches!(lost, Err(CallError::LaborLost { .. })), "{lost:?}");
    let silent = |s: &Seen| match s {
        Seen::Disconnected(_, Cause::HeartbeatLost { silent_ms }) => Some(*silent_ms),
        _ => None,
    };
    assert!(diary.wait_for("the loss", silent).await >= 1000);
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    assert!(!processes::lives(agent) && !processes::lives(host), "the first life is over for sure");
    processes::signal(agent, Signal::CONT);
    within("ready again", labor.ready()).await.unwrap();
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_wakes_up_within_its_grace_goes_on() {
    let ms = Duration::from_millis;
    let builder = watchful(probes!()).grace(ms(60_000));
    let (fleet, labor) = TestFleet::with_one(builder).await;
    let pid: u32 = labor.call("pid", &()).await.unwrap();
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, Signal::STOP);
    within("lost", labor.wait_for(|s| s.state == LaborState::Lost)).await;
    let refused: Result<u32, _> = labor.call("echo", &1).await;
    assert!(matches!(refused, Err(CallError::NotReady { state: LaborState::Lost, .. })), "{refused:?}");
    processes::signal(agent, Signal::CONT);
    within("ready again", labor.ready()).await.unwrap();
    assert_eq!(labor.call::<_, u32>("pid", &()).await.unwrap(), pid);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

fn cabled() -> (FleetBuilder<Quiet>, Cables) {
    let cables = Cables::new(labor!());
    (builder(Quiet, cables.clone()), cables)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_taken_up_again_without_loading_anything() {
    let (builder, cables) = cabled();
    let (fleet, labor) = TestFleet::with_one(builder).await;
    let pid: u32 = labor.call("pid", &()).await.unwrap();
    for round in 1..=5 {
        let open = labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
        assert!(cables.cut(labor.id()) > 0);
        let lost = within("the open call fails", open.answer()).await;
        assert!(matches!(lost, Err(CallError::LaborLost { cause: Cause::ConnectionLost, .. })), "{lost:?}");
        let answer = eventually("it answers again", async || labor.call::<_, u32>("pid", &()).await.ok());
        assert_eq!(answer.await, pid, "the same plugin host, in round {round}");
    }
    let status = labor.status();
    assert_eq!((status.generation.0, status.state), (1, LaborState::Ready));
    let loads = labor.history().iter().filter(|e| e.state == LaborState::Loading).count();
    assert_eq!(loads, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_fleet_pass_by_a_labor_that_was_cut_off() {
    let (builder, cables) = cabled();
    let (fleet, labors) = TestFleet::with(builder.grace(Duration::from_secs(3600)), 2).await;
    cables.pull(labors[0].id());
    // From the very moment of the cut on, and not only once it was noticed.
    let options = CallOptions::default().queue(Duration::from_secs(10));
    for number in 0..50u32 {
        let answer = fleet.call_bytes("echo", number.to_string(), options).await;
        match answer {
            Ok(_) => {}
            // It was on its way when the connection was cut.
            Err(CallError::LaborLost { labor, .. }) => assert_eq!(labor, labors[0].id()),
            Err(other) => panic!("{other}"),
        }
    }
    cables.mend(labors[0].id());
    within("ready again", labors[0].ready()).await.unwrap();
    assert_eq!(labors[0].status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_stays_away_longer_than_its_grace_is_replaced() {
    let (builder, cables) = cabled();
    let (fleet, labor) = TestFleet::with_one(builder.grace(Duration::from_millis(500))).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    cables.pull(labor.id());
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    assert!(!processes::lives(agent));
    cables.mend(labor.id());
    within("ready again", labor.ready()).await.unwrap();
    let away = labor.history().into_iter().find(|e| e.state == LaborState::Backoff).unwrap();
    assert_eq!(away.cause, Some(Cause::ConnectionLost));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_word_from_its_overseer_ends_itself() {
    let (builder, cables) = cabled();
    let ms = Duration::from_millis;
    let builder = builder.heartbeat(ms(100)).silence(ms(500)).lease(ms(1500)).grace(ms(3_600_000));
    let (fleet, labor) = TestFleet::with_one(builder).await;
    cables.pull(labor.id());
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    let ended = labor.history().into_iter().find(|e| e.state == LaborState::Backoff).unwrap();
    // The exit code that the agent's help lists for this.
    assert_eq!(ended.cause, Some(Cause::Exited { code: 12 }));
    cables.mend(labor.id());
    within("ready again", labor.ready()).await.unwrap();
    fleet.end().await;
}
