//! What a fleet makes of an adapter that refuses, forgets to answer, or takes its time.

use std::time::Duration;

use overseer::adapter::AdapterError;
use overseer::adapter::mock::{Fault, Mock};
use overseer::{Cause, Generation, LaborState, WhatNext};
use overseer_protocol::proto::{Drained, Report, ToOverseer, order, report};
use overseer_tests::{eventually, within};

use crate::played::{Played, Told, impatient};

fn adapter_said(reason: &str) -> Cause {
    Cause::AdapterError { reason: reason.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_room_is_asked_again_in_a_new_life() {
    let mock = Mock::new();
    mock.fail_provision(Fault::Refuse(AdapterError::Capacity("no host is free".into())));
    let mut played = Played::start(mock).await;
    let labor = played.fleet.start_child().await.unwrap();
    let cause = adapter_said("no capacity: no host is free");
    let next = WhatNext::Restart { after: 0 };
    assert_eq!(played.told().await, Told::Terminated(labor.id(), cause.clone(), next));
    played.boots(&labor, 2).await;
    assert_eq!(played.nodes(), [played.key(&labor, 2)]);
    let history = labor.history();
    let first: Vec<_> = history.iter().filter(|e| e.generation == Generation::FIRST).collect();
    let states: Vec<LaborState> = first.iter().map(|e| e.state).collect();
    assert_eq!(states, [LaborState::Requested, LaborState::Terminating, LaborState::Backoff]);
    assert_eq!(first[2].cause, Some(cause));
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_never_work_is_asked_once_and_frees_its_slot() {
    let mock = Mock::new();
    mock.fail_provision(Fault::Refuse(AdapterError::Invalid("no such image".into())));
    let mut played = Played::with(mock, |builder| builder.max_nodes(1)).await;
    let labor = played.fleet.start_child().await.unwrap();
    let cause = adapter_said("no such image");
    assert_eq!(within("the end", labor.terminated()).await, cause);
    assert_eq!(played.told().await, Told::Terminated(labor.id(), cause, WhatNext::Gone));
    assert_eq!(played.mock.requests().len(), 1);
    let another = played.fleet.start_child().await.unwrap();
    played.boots(&another, 1).await;
    assert_eq!(played.nodes(), [played.key(&another, 1)]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_answer_was_lost_is_ended_before_its_labor_lives_again() {
    let mock = Mock::new();
    mock.fail_provision(Fault::LoseAnswer);
    let mut played = Played::start(mock).await;
    let labor = played.fleet.start_child().await.unwrap();
    let cause = adapter_said("unknown outcome: the answer was lost");
    let next = WhatNext::Restart { after: 0 };
    assert_eq!(played.told().await, Told::Terminated(labor.id(), cause, next));
    assert_eq!(played.mock.terminated(), [played.key(&labor, 1)]);
    played.boots(&labor, 2).await;
    assert_eq!(played.nodes(), [played.key(&labor, 2)]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_takes_its_time_is_over_when_the_provider_says_so() {
    let mock = Mock::new();
    mock.fail_terminate(Fault::Pend);
    let mut played = Played::start(mock.clone()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    let key = played.key(&labor, 1);
    played.fleet.terminate_child(labor.id());
    eventually("its end is asked for", async || (mock.terminated() == [key.clone()]).then_some(())).await;
    assert_eq!(labor.status().state, LaborState::Terminating);
    assert_eq!(played.fleet.count_children().await.unwrap().total, 1, "its slot is taken");
    mock.end(&key, Cause::Signal { signal: 15 }).await;
    assert_eq!(within("the end", labor.terminated()).await, Cause::Asked, "how it ended is not why");
    assert_eq!(played.told().await, Told::Terminated(labor.id(), Cause::Asked, WhatNext::Gone));
    assert_eq!(mock.terminated(), [key], "nobody asked twice");
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_ended_is_tried_again_until_it_is() {
    let mock = Mock::new();
    mock.fail_terminate(Fault::Refuse(AdapterError::Throttled("too many requests".into())));
    mock.fail_terminate(Fault::Pend);
    mock.fail_terminate(Fault::LoseAnswer);
    let mut played = Played::with(mock, |builder| builder.deadlines(impatient())).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    played.fleet.terminate_child(labor.id());
    assert_eq!(within("the end", labor.terminated()).await, Cause::Asked);
    assert_eq!(played.told().await, Told::Terminated(labor.id(), Cause::Asked, WhatNext::Gone));
    assert_eq!(played.nodes(), []);
    // Refused, taken, done without an answer, confirmed.
    assert!(played.mock.terminated().len() >= 4, "{:?}", played.mock.terminated());
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_will_go_before_it_has_joined_is_replaced_at_once() {
    let mut played = Played::start(Mock::new()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    played.mock.take_back(&played.key(&labor, 1), Duration::from_secs(120)).await;
    let cause = Cause::Reclaimed { notice: "the provider takes it back".into() };
    assert_eq!(played.told().await, Told::Going(labor.id(), cause.clone()));
    let next = WhatNext::Restart { after: 0 };
    assert_eq!(played.told().await, Told::Terminated(labor.id(), cause, next));
    played.boots(&labor, 2).await;
    assert_eq!(played.nodes(), [played.key(&labor, 2)]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_will_go_finishes_its_calls_and_is_replaced() {
    let mut played = Played::start(Mock::new()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    let key = played.key(&labor, 1);
    let mut agent = played.attach(&key).await;
    within("ready", labor.ready()).await.unwrap();
    played.mock.take_back(&key, Duration::from_secs(120)).await;
    let cause = Cause::Reclaimed { notice: "the provider takes it back".into() };
    assert_eq!(played.told().await, Told::Going(labor.id(), cause.clone()));
    agent.ordered("a drain", |order| matches!(order, order::Kind::Drain(_))).await;
    assert_eq!(labor.status().state, LaborState::Draining);
    assert_eq!(played.nodes(), std::slice::from_ref(&key), "it has not finished yet");
    let drained = Report { kind: Some(report::Kind::Drained(Drained::default())) };
    agent.reports.send(ToOverseer { reports: vec![drained] }).await.unwrap();
    agent.ordered("a shutdown", |order| matches!(order, order::Kind::Shutdown(_))).await;
    played.mock.end(&key, Cause::Exited { code: 0 }).await;
    let next = WhatNext::Restart { after: 0 };
    assert_eq!(played.told().await, Told::Terminated(labor.id(), cause, next));
    played.boots(&labor, 2).await;
    assert_eq!(played.nodes(), [played.key(&labor, 2)]);
    played.end().await;
}
