//! What plugins leave behind without any trace of where it came from.

use std::path::Path;

use overseer::{CallOptions, Labor};
use overseer_tests::{TestFleet, eventually, probes, processes, within};
use rustix::process::Signal;

async fn hidden(labor: &Labor) -> i32 {
    let pid = labor.call::<_, i32>("hidden", &()).await.unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environment.windows(8).any(|w| w == b"OVERSEER"), "it carries the mark");
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_mark_goes_with_the_labor_that_started_it() {
    let (fleet, labors) = TestFleet::with(probes!(), 2).await;
    let [asked, stays] = &labors[..] else { panic!("two were started") };
    let (gone, other) = (hidden(asked).await, hidden(stays).await);
    assert!(processes::lives(gone) && processes::lives(other));
    fleet.terminate_child(asked.id());
    within("end", asked.terminated()).await;
    assert!(!processes::lives(gone), "it was left");
    assert!(processes::lives(other), "another labor's was ended");
    fleet.end().await;
    assert!(!processes::lives(other), "it was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_mark_goes_with_its_plugin_host_and_the_next_one_keeps_its_own() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let first = hidden(&labor).await;
    let mut last = first;
    for _ in 0..2 {
        let aborted = within("an answer", labor.call_bytes("abort", "", CallOptions::default())).await;
        assert!(aborted.is_err());
        eventually("what the host has left is gone", async || (!processes::lives(last)).then_some(())).await;
        let again = eventually("a new host", async || labor.call::<_, u32>("pid", &()).await.ok());
        again.await;
        last = hidden(&labor).await;
    }
    // It is not touched by what was tidied up before.
    assert!(processes::lives(last));
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
    assert!(!processes::lives(last));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_that_ends_by_itself_leaves_nothing() {
    let (fleet, labor) = TestFleet::with_one(probes!()).await;
    let pid = hidden(&labor).await;
    processes::signal(pid, Signal::KILL);
    let path = format!("/proc/{pid}");
    eventually("its parent has waited for it", async || (!Path::new(&path).exists()).then_some(())).await;
    assert_eq!(labor.call::<_, u32>("echo", &1).await.unwrap(), 1);
    fleet.end().await;
}
