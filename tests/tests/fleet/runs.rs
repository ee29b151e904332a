//! Releases that are programs which are run once for each call and each attempt of a task.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use overseer::logs::LogPiece;
use overseer::release::{Mode, Release, ReleaseBuilder};
use overseer::tasks::AttemptEnd;
use overseer::{
    CallError, CallOptions, FleetHandle, LogStream, Retry, Task, TaskError, TaskFailure, TaskOptions,
};
use overseer_protocol::CallErrorCode;
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, eventually, probes, processes, within};
use rustix::process::Signal;

/// A shell script as a release, run so often at once.
fn script(directory: &Path, text: &str, concurrency: u32) -> Release {
    let path = directory.join("job.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let builder = ReleaseBuilder::program("job", "1.0.0", path).mode(Mode::Run { concurrency });
    Release::pack(builder).unwrap()
}

async fn written(fleet: &FleetHandle, stream: LogStream) -> String {
    let mut reader = fleet.logs(stream, 0).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = within("a piece of a log", reader.next()).await.unwrap() {
        let LogPiece::Data { bytes, .. } = piece else { panic!("{piece:?}") };
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).unwrap()
}

/// Programs that labors of a fleet run now.
fn programs(fleet: &FleetHandle) -> Vec<i32> {
    let all = processes::of(fleet.name());
    all.iter().filter(|p| p.role == Role::Other && processes::lives(p.pid)).map(|p| p.pid).collect()
}

async fn a_program_runs(fleet: &FleetHandle) {
    eventually("a program runs", async || (!programs(fleet).is_empty()).then_some(())).await;
}

async fn no_program_runs(fleet: &FleetHandle) {
    eventually("no program runs", async || programs(fleet).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_runs_the_program_and_gets_what_it_prints() {
    let directory = tempfile::tempdir().unwrap();
    let text = "echo \"doing $OVERSEER_METHOD\" >&2; exec tr a-z A-Z";
    let release = script(directory.path(), text, 1);
    let (fleet, labor) = TestFleet::with_one(probes!().release(release)).await;
    let open = labor.start_call("shout", "hello", CallOptions::default()).await.unwrap();
    let stream = open.log("stderr");
    assert_eq!(within("an answer", open.answer()).await.unwrap(), "HELLO");
    assert_eq!(written(&fleet, stream).await, "doing shout\n");
    // More than travels with the call itself.
    let large = "a".repeat(3_000_000);
    let loud = within("an answer", fleet.call_bytes("shout", large, CallOptions::default())).await.unwrap();
    assert!(loud == "A".repeat(3_000_000));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_fails_as_the_program_does_and_the_labor_stays() {
    let directory = tempfile::tempdir().unwrap();
    let release = script(directory.path(), "echo no bolts >&2; eval \"$OVERSEER_METHOD\"", 1);
    let (fleet, labor) = TestFleet::with_one(probes!().release(release)).await;
    for (method, says) in [("exit 4", "exited with code 4"), ("kill -KILL $$", "ended by signal 9 (SIGKILL)")]
    {
        let failed = within("an answer", labor.call_bytes(method, "", CallOptions::default())).await;
        let Err(CallError::Answered { code, message, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(code, CallErrorCode::Failed);
        assert!(message.contains(says) && message.ends_with("no bolts"), "{message}");
    }
    within("an answer", labor.call_bytes("true", "", CallOptions::default())).await.unwrap();
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_ends_the_program_and_not_its_host() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[ $OVERSEER_METHOD = quick ] && exit 0; trap '' TERM; sleep 3600 & wait; wait";
    let (fleet, labor) = TestFleet::with_one(probes!().release(script(directory.path(), text, 1))).await;
    let host = processes::one(fleet.name(), labor.id(), Role::Host).unwrap();
    let options = CallOptions::default().run(Duration::from_millis(300));
    let late = within("an answer", labor.call_bytes("slow", "", options)).await;
    assert!(late.is_err(), "{late:?}");
    no_program_runs(&fleet).await;
    within("the next", labor.call_bytes("quick", "", CallOptions::default())).await.unwrap();
    assert_eq!(processes::one(fleet.name(), labor.id(), Role::Host), Some(host));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_task_is_a_run_is_tried_again_and_can_be_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark").display().to_string();
    let text = format!(
        "case $OVERSEER_METHOD in\n\
         flaky) echo ran >> {mark}; [ $(wc -l < {mark}) -ge 3 ] || exit 1; cat;;\n\
         long) sleep 3600 & wait;;\n\
         esac"
    );
    let release = script(directory.path(), &text, 1);
    let (fleet, _labor) = TestFleet::with_one(probes!().release(release)).await;
    let options = TaskOptions::default().retry(Retry::times(5));
    let task = fleet.submit_bytes("flaky", "hello", options).await.unwrap();
    assert_eq!(within("its result", task.result_bytes()).await.unwrap(), "hello");
    assert_eq!(task.record().await.unwrap().attempts, 3);
    let long = fleet.submit_bytes("long", "", TaskOptions::default()).await.unwrap();
    a_program_runs(&fleet).await;
    long.cancel();
    let end = within("its end", long.result_bytes()).await;
    assert!(matches!(end, Err(TaskError::Failed(TaskFailure::Cancelled))), "{end:?}");
    no_program_runs(&fleet).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_leave_no_process_and_each_has_its_own_result() {
    let directory = tempfile::tempdir().unwrap();
    // Some leave a child behind, which holds the output open or not.
    let text = "n=$(cat)\n\
                if [ $((n % 10)) = 0 ]; then sleep 3600 > /dev/null 2>&1 & fi\n\
                if [ $((n % 100)) = 1 ]; then sleep 3600 & fi\n\
                echo $((n * n))";
    let release = script(directory.path(), text, 4);
    let (fleet, _labors) = TestFleet::with(probes!().release(release), 2).await;
    let mut tasks = Vec::new();
    for n in 0..1000u32 {
        let payload = n.to_string();
        tasks.push(fleet.submit_bytes("square", payload, TaskOptions::default()).await.unwrap());
    }
    for (n, task) in tasks.iter().enumerate() {
        let result = within("a result", task.result_bytes()).await.unwrap();
        assert_eq!(result, format!("{}\n", n * n));
    }
    assert_eq!(programs(&fleet), Vec::<i32>::new());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_amid_a_task_leaves_no_program_and_the_task_is_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark").display().to_string();
    // In a session of its own: no signal to a group reaches it.
    let text = format!(
        "echo ran >> {mark}; [ $(wc -l < {mark}) -ge 2 ] && exec echo done\n\
         setsid sleep 3600 & sleep 3600 & wait"
    );
    let (fleet, labor) = TestFleet::with_one(probes!().release(script(directory.path(), &text, 1))).await;
    let task = fleet.submit_bytes("any", "", TaskOptions::default()).await.unwrap();
    let first = eventually("all three run", async || {
        let all = programs(&fleet);
        (all.len() == 3).then_some(all)
    })
    .await;
    processes::signal(processes::one(fleet.name(), labor.id(), Role::Host).unwrap(), Signal::KILL);
    assert_eq!(within("its result", task.result_bytes()).await.unwrap(), "done\n");
    eventually("the first run is gone", async || {
        first.iter().all(|pid| !processes::lives(*pid)).then_some(())
    })
    .await;
    let record = task.record().await.unwrap();
    assert_eq!((record.attempts, record.charged), (2, 0));
    let end = &record.history[0].end;
    assert!(matches!(end, AttemptEnd::Answered { code: CallErrorCode::HostEnded, .. }), "{record:?}");
    assert_eq!(labor.status().generation.0, 1);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_executed_fails_each_call_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.sh");
    std::fs::write(&path, "#!/nowhere/interpreter\n").unwrap();
    let builder = ReleaseBuilder::program("job", "1.0.0", path).mode(Mode::Run { concurrency: 1 });
    let (fleet, labor) = TestFleet::with_one(probes!().release(Release::pack(builder).unwrap())).await;
    let failed = within("an answer", labor.call_bytes("any", "", CallOptions::default())).await;
    let Err(CallError::Answered { code, message, .. }) = failed else { panic!("{failed:?}") };
    assert_eq!(code, CallErrorCode::Failed);
    assert!(message.contains("cannot execute") && message.contains("job.sh"), "{message}");
    let task = fleet.submit_bytes("any", "", TaskOptions::default()).await.unwrap();
    let end = within("its end", task.result_bytes()).await;
    let Err(TaskError::Failed(TaskFailure::Answered { message, .. })) = end else { panic!("{end:?}") };
    assert!(message.contains("cannot execute"), "{message}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_tasks_do_not_stay_behind_a_long_one() {
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let text =
        format!("[ \"$OVERSEER_METHOD\" != long ] || until [ -e {} ]; do sleep 0.05; done", gate.display());
    let fleet = TestFleet::start(probes!().release(script(directory.path(), &text, 1))).await;
    for labor in fleet.start_children(2).await.unwrap() {
        within("a labor", labor.ready()).await.unwrap();
    }
    let submit = async |method| fleet.submit_bytes(method, "", TaskOptions::default()).await.unwrap();
    let over = async |tasks: Vec<Task>| {
        for task in tasks {
            within("the end of a short task", task.result_bytes()).await.unwrap();
        }
    };
    let mut short = Vec::new();
    for _ in 0..30 {
        short.push(submit("short").await);
    }
    // Both labors are known to be quick now, and get some to wait.
    over(std::mem::take(&mut short)).await;
    let long = submit("long").await;
    for _ in 0..30 {
        short.push(submit("short").await);
    }
    over(short).await;
    assert!(!long.record().await.unwrap().is_over());
    std::fs::write(&gate, "").unwrap();
    within("the long one", long.result_bytes()).await.unwrap();
    fleet.end().await;
}
