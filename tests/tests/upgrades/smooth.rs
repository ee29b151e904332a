//! What goes well, and what is refused before it begins.

use std::time::Duration;

use overseer::fleet::UpgradeError;
use overseer::history::{FleetEntry, UpgradeEntry};
use overseer::release::ReleaseBuilder;
use overseer::{CallOptions, FleetEvent, Release, UpgradeOptions, UpgradeStage};
use overseer_tests::processes::{self, Role};
use overseer_tests::{TestFleet, eventually, probes, within};

use crate::scene::{Load, quick, version};

fn fleet(release: Release) -> overseer::FleetBuilder<overseer::Quiet> {
    probes!().release(release)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_all_labors_change_their_release() {
    let (fleet, labors) = TestFleet::with(fleet(version("1", &[])), 4).await;
    let load = Load::on(&fleet, 8);
    let two = version("2", &[]);
    let options =
        UpgradeOptions { canary: 25, watch: Duration::from_millis(300), ..UpgradeOptions::default() };
    let mut upgrade = fleet.upgrade_with(Some(two.clone()), options).await.unwrap();
    let mut stages = vec![upgrade.status().stage.name()];
    let follow = async {
        while let Ok(status) = upgrade.changed().await {
            stages.push(status.stage.name());
            if status.stage.is_over() {
                break;
            }
        }
        stages.dedup();
        stages
    };
    assert_eq!(within("the upgrade", follow).await, ["canary", "rolling", "watching", "done"]);
    let outcomes = load.end().await;
    assert_eq!((outcomes.lost, &outcomes.failed[..]), (0, &[][..]));
    assert!(outcomes.by("1") > 0 && outcomes.by("2") > 0, "{outcomes:?}");
    for labor in &labors {
        assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "2");
    }
    assert_eq!(fleet.release().unwrap().id(), two.id());
    let hosts = || processes::of(fleet.name()).into_iter().filter(|p| p.role == Role::Host).count();
    eventually("the old hosts are gone", async || (hosts() == 4).then_some(())).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_has_begun_it_finishes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("go on");
    let (fleet, labor) = TestFleet::with_one(fleet(version("1", &[]))).await;
    let before: u32 = labor.call("pid", &()).await.unwrap();
    let mut telemetry = fleet.telemetry();
    let path = serde_json::to_vec(&file).unwrap();
    let open = labor.start_call("wait_file", path, CallOptions::default()).await.unwrap();
    let begun = async {
        while !telemetry
            .next()
            .await
            .is_some_and(|batch| batch.iter().any(|r| format!("{:?}", r.body).contains("waits")))
        {}
    };
    within("the call runs", begun).await;
    within("the upgrade", fleet.upgrade_with(Some(version("2", &[])), quick()).await.unwrap().done())
        .await
        .unwrap();
    let after: u32 = labor.call("pid", &()).await.unwrap();
    assert_ne!(before, after);
    assert!(processes::of(fleet.name()).iter().any(|p| p.pid.cast_unsigned() == before), "it is not done");
    std::fs::write(&file, b"").unwrap();
    assert_eq!(within("the open call", open.answer()).await.unwrap(), "");
    let gone = || processes::of(fleet.name()).iter().all(|p| p.pid.cast_unsigned() != before);
    eventually("the old host is gone", async || gone().then_some(())).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_become_empty_and_something_else_again() {
    let (fleet, labor) = TestFleet::with_one(fleet(version("1", &[]))).await;
    let change = async |release| {
        within("the upgrade", fleet.upgrade_with(release, quick()).await.unwrap().done()).await.unwrap();
    };
    change(None).await;
    let error = labor.call::<_, String>("version", &()).await.unwrap_err();
    assert!(error.to_string().contains("no release is up"), "{error}");
    let hosts = || processes::of(fleet.name()).into_iter().filter(|p| p.role == Role::Host).count();
    eventually("no host is left", async || (hosts() == 0).then_some(())).await;
    change(Some(version("3", &[]))).await;
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "3");
    assert_eq!(labor.status().generation.0, 1, "it was the same node all the time");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_labor_and_one_that_was_replaced_run_the_new_version() {
    let (fleet, labor) = TestFleet::with_one(fleet(version("1", &[]))).await;
    within("the upgrade", fleet.upgrade_with(Some(version("2", &[])), quick()).await.unwrap().done())
        .await
        .unwrap();
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, rustix::process::Signal::KILL);
    within("the next life", labor.wait_for(|s| s.generation.0 == 2)).await;
    let new = fleet.start_child().await.unwrap();
    for labor in [labor, new] {
        within("ready", labor.ready()).await.unwrap();
        assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "2");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_upgrade_is_refused_by_name_and_changes_nothing() {
    let one = version("1", &[]);
    let (fleet, labor) = TestFleet::with_one(fleet(one.clone())).await;
    let code = async |release: Release, options: UpgradeOptions| {
        fleet.upgrade_with(Some(release), options).await.map(|_| ()).unwrap_err().code()
    };
    assert_eq!(code(one, quick()).await, "upgrade.same_release");
    let elsewhere = ReleaseBuilder::plugin("probe-plugin", "2.0.0", overseer_tests::probe_library());
    let elsewhere = Release::pack(elsewhere.target("riscv64gc-unknown-linux-gnu")).unwrap();
    let refused = fleet.upgrade_with(Some(elsewhere), quick()).await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, UpgradeError::OtherTarget { .. }), "{refused}");
    assert!(refused.to_string().contains("riscv64gc"), "{refused}");
    assert_eq!(code(version("2", &[]), UpgradeOptions { canary: 101, ..quick() }).await, "upgrade.option");
    assert_eq!(labor.call::<_, String>("version", &()).await.unwrap(), "1");

    let slow = UpgradeOptions { watch: Duration::from_secs(60), ..quick() };
    let running = fleet.upgrade_with(Some(version("2", &[])), slow).await.unwrap();
    assert_eq!(code(version("3", &[]), quick()).await, "upgrade.running");
    assert_eq!(running.status().stage, UpgradeStage::Canary);
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callbacks_are_told_how_it_began_and_how_it_ended() {
    let (diary, mut seen) = Diary::new();
    let (fleet, _) = TestFleet::with_one(probes!(diary).release(version("1", &[]))).await;
    let mut events = fleet.events();
    let no_good = version("3", &[("PROBE_START", "fail")]);
    let [forward, back]: [&[&str]; 2] =
        [&["canary", "rolling", "done"], &["canary", "going_back", "rolled_back"]];
    for (release, stages) in [(version("2", &[]), forward), (no_good, back)] {
        let _ = within("the upgrade", fleet.upgrade_with(Some(release), quick()).await.unwrap().done()).await;
        for stage in stages {
            assert_eq!(within("the callback", seen.recv()).await.unwrap(), *stage);
            let status = loop {
                // That the labor is ready may come late.
                if let FleetEntry::Upgrade(UpgradeEntry { status, .. }) =
                    within("the event", events.recv()).await.unwrap()
                {
                    break status;
                }
            };
            assert_eq!(status.stage.name(), *stage);
        }
    }
    fleet.end().await;
}

/// Notes the stages of upgrades.
struct Diary(tokio::sync::mpsc::UnboundedSender<&'static str>);

impl Diary {
    fn new() -> (Self, tokio::sync::mpsc::UnboundedReceiver<&'static str>) {
        let (send, seen) = tokio::sync::mpsc::unbounded_channel();
        (Self(send), seen)
    }
}

impl overseer::Overseer for Diary {
    async fn handle_event(&mut self, _: &overseer::Fleet<Self>, event: &FleetEvent) {
        if let FleetEvent::Upgrading { status } | FleetEvent::Upgraded { status } = event {
            let _ = self.0.send(status.stage.name());
        }
    }
}
