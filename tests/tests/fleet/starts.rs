//! Starting, counting, the history of labors.

use overseer::fleet::StartChildError;
use overseer::history::FleetEntry;
use overseer::{CallError, Cause, LaborState, Release};
use overseer_tests::{TestFleet, eventually, probes, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_started_child_gets_ready_and_answers_a_typed_call() {
    let fleet = TestFleet::start(probes!()).await;
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    assert_eq!(labor.status().state, LaborState::Ready);
    assert_eq!(labor.status().generation.0, 1);
    assert!(labor.facts().unwrap().cores > 0);
    let told: Vec<u32> = labor.call("echo", &[1, 2, 3]).await.unwrap();
    assert_eq!(told, [1, 2, 3]);
    let wrong: Result<String, _> = labor.call("echo", &7).await;
    assert!(matches!(wrong, Err(CallError::Codec { what: "result", .. })), "{wrong:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_before_the_labor_is_ready_says_so() {
    let fleet = TestFleet::start(probes!()).await;
    let labor = fleet.start_child().await.unwrap();
    let early: Result<u32, _> = labor.call("echo", &1).await;
    assert!(matches!(early, Err(CallError::NotReady { .. })), "{early:?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_started_all_or_none() {
    let fleet = TestFleet::start(probes!().max_nodes(3)).await;
    let labors = fleet.start_children(2).await.unwrap();
    assert_eq!(labors.len(), 2);
    let refused = fleet.start_children(2).await.unwrap_err();
    let StartChildError::AtCapacity(full) = &refused else { panic!("{refused:?}") };
    assert_eq!((full.taken, full.max), (2, 3));
    assert!(refused.to_string().contains("max_nodes"), "{refused}");
    assert_eq!(fleet.count_children().await.unwrap().total, 2);
    assert_eq!(fleet.which_children(), labors);
    let third = fleet.start_child().await.unwrap();
    assert!(fleet.start_child().await.is_err());
    for labor in labors.iter().chain([&third]) {
        within("ready", labor.ready()).await.unwrap();
    }
    let count = fleet.count_children().await.unwrap();
    assert_eq!((count.total, count.ready), (3, 3));
    assert_eq!(count.by_state, [(LaborState::Ready, 3)].into());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_children_are_no_error() {
    let fleet = TestFleet::start(probes!()).await;
    assert_eq!(fleet.start_children(0).await.unwrap(), []);
    assert_eq!(fleet.count_children().await.unwrap(), overseer::Count::default());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_labor_and_the_events_of_its_fleet_tell_its_life_in_order() {
    let fleet = TestFleet::start(probes!()).await;
    let mut events = fleet.events();
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    fleet.terminate_child(labor.id());
    assert_eq!(within("end", labor.terminated()).await, Cause::Asked);
    let history = labor.history();
    let states: Vec<LaborState> = history.iter().map(|e| e.state).collect();
    // How soon the adapter answers decides whether `Booting` is seen before `Joining`.
    let mut expected = vec![
        LaborState::Requested,
        LaborState::Booting,
        LaborState::Joining,
        LaborState::Connected,
        LaborState::Loading,
        LaborState::Loaded,
        LaborState::Ready,
        LaborState::Terminating,
        LaborState::Terminated,
    ];
    if !states.contains(&LaborState::Booting) {
        expected.remove(1);
    }
    assert_eq!(states, expected);
    assert!(history.is_sorted_by_key(|e| e.at_ms));
    assert_eq!(history.last().unwrap().cause, Some(Cause::Asked));
    let mut told = Vec::new();
    while told.len() < history.len() {
        told.push(within("an event", events.recv()).await.unwrap());
    }
    assert_eq!(told, history.iter().cloned().map(FleetEntry::Labor).collect::<Vec<_>>());
    // The handle of one that has ended is still found, with its history.
    assert_eq!(fleet.labor(labor.id()).unwrap().history(), history);
    assert_eq!(fleet.which_children(), []);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_ends_before_it_is_ready_says_why() {
    let builder = probes!().environment("PROBE_START", "hang");
    let fleet = TestFleet::start(builder).await;
    let labor = fleet.start_child().await.unwrap();
    within("loading", labor.wait_for(|s| s.state == LaborState::Loaded)).await;
    let waits = tokio::spawn({
        let labor = labor.clone();
        async move { labor.ready().await }
    });
    fleet.terminate_child(labor.id());
    let ended = within("the end", waits).await.unwrap().unwrap_err();
    assert_eq!((ended.labor, ended.cause), (labor.id(), Cause::Asked));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_without_a_release_has_empty_labors_that_take_no_calls() {
    let local = overseer::local::Local::with_program(overseer_tests::labor!());
    let builder = overseer::Fleet::quiet().name("empty-labors").adapter(local);
    let (fleet, labor) = TestFleet::with_one(builder).await;
    let answer: Result<u32, _> = labor.call("echo", &1).await;
    let Err(CallError::Answered { code, .. }) = &answer else { panic!("{answer:?}") };
    assert_eq!(*code, overseer::CallErrorCode::NotReady);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_fleet_starts_nothing_and_says_so() {
    let fleet = TestFleet::start(probes!()).await;
    let handle = fleet.clone();
    fleet.end().await;
    assert!(matches!(handle.start_child().await, Err(StartChildError::Stopped(_))));
    assert!(handle.count_children().await.is_err());
    handle.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_labors_started_at_once_all_get_ready() {
    let (fleet, labors) = TestFleet::with(probes!().max_nodes(8), 8).await;
    let answers = fleet.broadcast::<_, u32>("pid", &()).await;
    let mut pids: Vec<u32> = answers.iter().map(|(_, pid)| *pid.as_ref().unwrap()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), labors.len(), "each has a plugin host of its own");
    fleet.terminate_all();
    for labor in &labors {
        assert_eq!(within("end", labor.terminated()).await, Cause::Asked);
    }
    assert_eq!(fleet.count_children().await.unwrap().total, 0);
    // The slots are free again.
    let labor = fleet.start_child().await.unwrap();
    within("ready", labor.ready()).await.unwrap();
    fleet.end().await;
}

#[test]
fn options_that_cannot_work_are_refused_before_anything_starts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let second = std::time::Duration::from_secs(1);
        let cases = [
            (probes!().max_nodes(0), "max_nodes"),
            (probes!().silence(second).heartbeat(second), "silence"),
            (probes!().lease(second), "lease"),
            (probes!().name("No Name"), "fleet name"),
        ];
        for (builder, word) in cases {
            let error = builder.start().await.err().expect(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = overseer::Fleet::quiet().start().await.err().unwrap().to_string();
        assert!(error.contains("adapter"), "{error}");
    });
}

#[test]
fn a_library_that_is_not_built_is_named() {
    let error = Release::plugin_beside_program("no_such_plugin", "1.0.0").err().unwrap().to_string();
    assert!(error.contains("libno_such_plugin.so") && error.contains("cargo build"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_a_labor_goes_with_it() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let (scratch, working): (std::path::PathBuf, std::path::PathBuf) =
        labor.call("directory", &()).await.unwrap();
    assert_eq!(scratch, working);
    assert!(scratch.is_dir());
    fleet.terminate_child(labor.id());
    within("end", labor.terminated()).await;
    eventually("its directory is gone", async || (!scratch.exists()).then_some(())).await;
    fleet.end().await;
}
