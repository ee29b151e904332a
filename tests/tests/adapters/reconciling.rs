//! A fleet that is held against what its adapter has.

use overseer::adapter::mock::Mock;
use overseer::adapter::{Adapter, Request};
use overseer::core::{Finding, Life, Pass};
use overseer::store::Transaction;
use overseer::{Cause, ControlPlane, Generation, Labor, LaborId};
use overseer_tests::within;

use crate::played::Played;

fn life(labor: &Labor, generation: u32) -> Life {
    Life { labor: labor.id(), generation: Generation(generation) }
}

/// A pass, and another one: the first only looks.
async fn twice(played: &Played) -> Pass {
    let first = played.fleet.reconcile(false).await.unwrap();
    assert_eq!(first.act, []);
    played.fleet.reconcile(false).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_vanished_is_replaced_and_a_stranger_is_ended() {
    let mut played = Played::start(Mock::new()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    assert_eq!(twice(&played).await, Pass::default());

    played.mock.vanish(&played.key(&labor, 1));
    let mut stray = played.key(&labor, 1);
    stray.labor = LaborId::new(1, 1);
    let bootstrap = played.mock.requests()[0].bootstrap.clone();
    let request = Request { key: stray.clone(), bootstrap, resources: Default::default() };
    played.mock.provision(&[request]).await[0].as_ref().unwrap();

    let vanished = Finding::IntentWithoutMachine(life(&labor, 1));
    let stranger = Finding::MachineWithoutIntent(Life { labor: stray.labor, generation: Generation::FIRST });
    let mut found = played.fleet.findings().await.unwrap();
    found.sort();
    assert_eq!(found, [vanished, stranger]);
    assert_eq!(twice(&played).await.act, [vanished, stranger]);
    let told = played.told().await;
    let crate::played::Told::Terminated(of, Cause::AdapterError { reason }, _) = &told else {
        panic!("{told:?}")
    };
    assert_eq!((*of, reason.as_str()), (labor.id(), "the adapter has no such node any more"));
    played.boots(&labor, 2).await;
    assert_eq!(played.nodes(), [played.key(&labor, 2)]);
    assert_eq!(twice(&played).await, Pass::default());
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_overseer_with_a_fleet_of_that_name_are_left_alone() {
    let played = Played::start(Mock::new()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    let mut bootstrap = played.mock.requests()[0].bootstrap.clone();
    bootstrap.owner = Some("another's".into());
    let mut key = played.key(&labor, 1);
    key.labor = LaborId::new(1, 1);
    let request = Request { key: key.clone(), bootstrap, resources: Default::default() };
    played.mock.provision(&[request]).await[0].as_ref().unwrap();
    assert_eq!(played.fleet.findings().await.unwrap(), []);
    assert_eq!(twice(&played).await, Pass::default());
    assert_eq!(played.mock.nodes().len(), 2);
    played.mock.vanish(&key);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_labor_is_not_given_up_for_an_inventory_that_lags_behind() {
    let played = Played::start(Mock::new()).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    let agent = played.attach(&played.key(&labor, 1)).await;
    within("ready", labor.ready()).await.unwrap();
    played.mock.vanish(&played.key(&labor, 1));
    assert_eq!(twice(&played).await, Pass::default());
    drop(agent);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_shows_nothing_does_not_cost_the_fleet() {
    let played = Played::start(Mock::new()).await;
    let labors = played.fleet.start_children(8).await.unwrap();
    for labor in &labors {
        played.boots(labor, 1).await;
        played.mock.vanish(&played.key(labor, 1));
    }
    let pass = twice(&played).await;
    assert_eq!((pass.act.len(), pass.found.len(), pass.braked), (0, 8, Some((8, 8))));
    let forced = played.fleet.reconcile(true).await.unwrap();
    assert_eq!(forced.act.len(), 8);
    for labor in &labors {
        played.boots(labor, 2).await;
    }
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_stands_for_is_removed() {
    let plane = ControlPlane::embedded().await.unwrap();
    let played = Played::with(Mock::new(), |builder| builder.control_plane(&plane)).await;
    let labor = played.fleet.start_child().await.unwrap();
    played.boots(&labor, 1).await;
    let key = format!("labors/{}/{}", played.fleet.name(), labor.id());
    let record = plane.store().get(&key).await.unwrap().unwrap();
    let stray = LaborId::new(1, 1);
    let copy = String::from_utf8(record.value.to_vec())
        .unwrap()
        .replace(&labor.id().to_string(), &stray.to_string());
    let stray_key = format!("labors/{}/{stray}", played.fleet.name());
    plane.store().transact(Transaction::new().put(stray_key.clone(), copy)).await.unwrap();
    let finding = Finding::RecordWithoutLabor(Life { labor: stray, generation: Generation::FIRST });
    assert_eq!(twice(&played).await.act, [finding]);
    assert!(plane.store().get(&stray_key).await.unwrap().is_none());
    played.end().await;
    plane.shutdown().await;
}
