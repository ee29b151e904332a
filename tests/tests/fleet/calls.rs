//! Calls to one labor: errors of the plugin, cancelling, hosts that end.

use std::time::Duration;

use overseer::{CallError, CallErrorCode, CallOptions, Cause, FleetEvent, Labor};
use overseer_tests::{TestFleet, eventually, probes, within};

use crate::callbacks::{Diary, Seen};

type Answer = Result<bytes::Bytes, CallError>;

fn answered(answer: &Answer) -> (CallErrorCode, &str, Option<&Cause>) {
    match answer {
        Err(CallError::Answered { code, message, cause }) => (*code, message, cause.as_ref()),
        other => panic!("{other:?}"),
    }
}

async fn call(labor: &Labor, method: &str, argument: &str) -> Answer {
    let options = CallOptions::default();
    within(method, labor.call_bytes(method, argument.to_owned(), options)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_plugin_come_with_their_code_and_message() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let cases = [
        ("fail", "\"no bolts\"", CallErrorCode::Failed, "no bolts"),
        ("no_such_method", "", CallErrorCode::NoMethod, "no_such_method"),
        ("sleep", "\"long\"", CallErrorCode::BadPayload, "expected"),
        ("panic", "\"dropped a bolt\"", CallErrorCode::Panicked, "dropped a bolt"),
    ];
    let pid = call(&labor, "pid", "").await.unwrap();
    for (method, argument, code, word) in cases {
        let answer = call(&labor, method, argument).await;
        let (got, message, cause) = answered(&answer);
        assert_eq!((got, cause), (code, None), "{method}");
        assert!(message.contains(word), "{method}: {message}");
    }
    assert_eq!(call(&labor, "pid", "").await.unwrap(), pid, "none of that costs the host");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_calls_among_many_short_ones_let_them_pass_and_can_be_cancelled() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let echoes = async |count: usize| {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let labor = labor.clone();
            tasks.spawn(async move {
                for _ in 0..count {
                    assert_eq!(call(&labor, "echo", "7").await.unwrap(), "7");
                }
            });
        }
        within("the echoes", tasks.join_all()).await;
    };
    echoes(100).await;
    let directory = tempfile::tempdir().unwrap();
    let opens = directory.path().join("gate");
    let gate = format!("{:?}", opens.to_str().unwrap());
    // All places but one, begun in the middle of the others.
    let long: Vec<_> = {
        let begin = async {
            let mut open = Vec::new();
            for _ in 0..3 {
                open.push(labor.start_call("wait_file", gate.clone(), CallOptions::default()).await.unwrap());
                tokio::task::yield_now().await;
            }
            open
        };
        tokio::join!(begin, echoes(100)).0
    };
    echoes(100).await;
    // The last place too, by one that is cancelled: what comes behind it goes on then.
    let options = CallOptions::default();
    let cancelled = labor.start_call("wait_cancel", "600000", options).await.unwrap();
    let behind = labor.start_call("echo", "7", options).await.unwrap();
    cancelled.canceller().cancel();
    let answer = within("the cancelled one", cancelled.answer()).await;
    assert_eq!(answered(&answer).0, CallErrorCode::Cancelled);
    assert_eq!(within("the one behind it", behind.answer()).await.unwrap(), "7");
    echoes(100).await;
    std::fs::write(opens, "").unwrap();
    for open in long {
        within("a long one", open.answer()).await.unwrap();
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_is_cancelled_in_the_plugin() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let pid = call(&labor, "pid", "").await.unwrap();
    // All places of the plugin, and some that wait for one.
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap());
    }
    drop(open);
    assert_eq!(call(&labor, "pid", "").await.unwrap(), pid, "they left without being forced");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_future_is_cancelled_too() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let pid = call(&labor, "pid", "").await.unwrap();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let labor = labor.clone();
            tokio::spawn(async move { call(&labor, "wait_cancel", "600000").await })
        })
        .collect();
    let queue = CallOptions::default().queue(Duration::from_millis(200));
    // Until all places are taken, this one finds a free one.
    eventually("all places are taken", async || labor.call_bytes("echo", "", queue).await.err()).await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(call(&labor, "pid", "").await.unwrap(), pid);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_still_gets_its_answer() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let open = labor.start_call("wait_cancel", "600000", CallOptions::default()).await.unwrap();
    let canceller = open.canceller();
    canceller.cancel();
    let answer = within("an answer", open.answer()).await;
    assert_eq!(answered(&answer).0, CallErrorCode::Cancelled);
    canceller.cancel();
    // A result that came in spite of the cancel is the truth.
    let open = labor.start_call("on_cancel", "", CallOptions::default()).await.unwrap();
    // It is in the plugin once something behind it was answered.
    call(&labor, "echo", "").await.unwrap();
    let canceller = open.canceller();
    let answer = eventually("it is told", {
        let mut answer = Box::pin(open.answer());
        async move || {
            canceller.cancel();
            tokio::time::timeout(Duration::from_millis(100), &mut answer).await.ok()
        }
    });
    match answer.await {
        Ok(said) => assert_eq!(&said[..], b"\"told\""),
        other => assert_eq!(answered(&other).0, CallErrorCode::Cancelled),
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_ignores_a_cancel_loses_its_host_and_neighbours_are_told() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone())).await;
    let pid = call(&labor, "pid", "").await.unwrap();
    let spins = labor.start_call("spin", "", CallOptions::default()).await.unwrap();
    let neighbour = labor.start_call("sleep", "600000", CallOptions::default()).await.unwrap();
    let runs = |s: &Seen| (*s == Seen::Said(labor.id(), "waits".into())).then_some(());
    diary.wait_for("it spins", runs).await;
    spins.canceller().cancel();
    let spun = within("an answer", spins.answer()).await;
    let (code, _, cause) = answered(&spun);
    assert_eq!(code, CallErrorCode::Cancelled);
    assert!(matches!(cause, Some(Cause::Hung { .. })), "{spun:?}");
    let neighbour = within("an answer", neighbour.answer()).await;
    let (code, _, cause) = answered(&neighbour);
    assert_eq!(code, CallErrorCode::HostEnded);
    assert!(matches!(cause, Some(Cause::Hung { .. })), "{neighbour:?}");
    // A call waits for the next host; the labor itself lives on.
    assert_ne!(call(&labor, "pid", "").await.unwrap(), pid);
    assert_eq!(labor.status().generation.0, 1);
    let mut told = Vec::new();
    eventually("the host's end and start are told", async || {
        told = diary.read().into_iter().filter_map(host_event).collect();
        (told.len() == 3).then_some(())
    })
    .await;
    let what: Vec<&str> = told.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(what, ["exited", "restarting", "started"]);
    assert!(matches!(told[0].1, Some(Cause::Hung { .. })), "{told:?}");
    fleet.end().await;
}

fn host_event(seen: Seen) -> Option<(String, Option<Cause>)> {
    match seen {
        Seen::Event(FleetEvent::PluginHost { what, cause, .. }) => Some((what, cause)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_plugin_is_an_answer_with_its_cause_and_costs_no_labor() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let cases = [
        ("abort", "", Cause::Signal { signal: 6 }),
        ("segfault", "", Cause::Signal { signal: 11 }),
        ("exit", "3", Cause::Exited { code: 3 }),
    ];
    let mut pid = call(&labor, "pid", "").await.unwrap();
    for (method, argument, cause) in cases {
        let answer = call(&labor, method, argument).await;
        let (code, message, got) = answered(&answer);
        assert_eq!((code, got), (CallErrorCode::HostEnded, Some(&cause)), "{method}: {message}");
        let next = call(&labor, "pid", "").await.unwrap();
        assert_ne!(next, pid);
        pid = next;
    }
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_crashes_again_and_again_costs_its_labor() {
    let diary = Diary::default();
    let (fleet, labor) = TestFleet::with_one(probes!(diary.clone())).await;
    eventually("the next life", async || {
        let _ = labor.call::<_, ()>("exit", &3).await;
        (labor.status().generation.0 == 2).then_some(())
    })
    .await;
    within("ready again", labor.ready()).await.unwrap();
    let ended = labor.history().into_iter().find_map(|e| match e.cause {
        Some(Cause::Policy { rule }) => Some(rule),
        _ => None,
    });
    assert!(ended.as_ref().is_some_and(|rule| rule.contains("plugin host")), "{ended:?}");
    assert!(diary.read().into_iter().filter_map(host_event).any(|(what, _)| what == "gave_up"));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_talks_nonsense_to_its_agent_is_ended() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    for method in ["babble", "close_pipes"] {
        let answer = call(&labor, method, "").await;
        assert_eq!(answered(&answer).0, CallErrorCode::HostEnded, "{method}");
    }
    call(&labor, "pid", "").await.unwrap();
    fleet.end().await;
}
