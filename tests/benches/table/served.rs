//! What a user of `overseer serve` waits for: a call and a task from a shell, and a server that was
//! killed with 200 labors and 2,000 tasks in flight.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use overseer::BoxError;
use overseer_tests::served::Served;

use crate::peers::recorded;
use crate::row::{Against, Row, Unit, millis};

const TIMES: usize = 50;
const LABORS: usize = 200;
/// Calls and tasks that run at once in the probe of one labor.
const PLACES: usize = 4;
const TASKS: usize = 2_000;
const KILLS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn rows() -> Result<Vec<Row>, BoxError> {
    let mut rows = from_a_shell().await?;
    rows.extend(after_a_kill().await?);
    Ok(rows)
}

async fn from_a_shell() -> Result<Vec<Row>, BoxError> {
    let served = Served::start(env!("CARGO_BIN_EXE_test_overseer"), "bench-shell", "", "").await;
    served.ready().await;
    let fleet = served.fleet.clone();
    let timed = |args: &[&str]| {
        let samples = (0..TIMES).map(|_| {
            let start = Instant::now();
            served.ask(args);
            millis(start.elapsed())
        });
        samples.collect::<Vec<_>>()
    };
    let nothing = timed(&["--version"]);
    let call = timed(&["call", &fleet, "echo", "1"]);
    let task = timed(&["submit", &fleet, "echo", "1", "--wait"]);
    served.stop().await;
    let unit = Unit::Milliseconds;
    Ok(vec![
        Row::new("overseer call, from a shell", unit, call)
            .against(Against::measured("--version", unit, nothing))
            .goal(20.0),
        Row::new("overseer submit --wait", unit, task).against(recorded("HyperQueue", "one")),
    ])
}

/// From the start of the next server until it has taken the result that came meanwhile, and the
/// task that waited for that place runs; and until all labors are ready.
async fn after_a_kill() -> Result<Vec<Row>, BoxError> {
    let keys = format!("labors = {LABORS}\nmax_labors = {LABORS}");
    let mut served = Served::start(env!("CARGO_BIN_EXE_test_overseer"), "bench-kill", "", &keys).await;
    until("all labors are ready", || served.shown()["ready"] == LABORS);
    let lives = lives(&served);

    let path = |name: String| served.path(&name).to_str().unwrap_or_default().to_owned();
    let waits = |name: String| ("wait_file", format!("{:?}", path(name)));
    // All places are taken; then wait, by turns, what runs after a kill and what waits for the next.
    let mut tasks = vec![waits("gate-0".into())];
    tasks.resize(LABORS * PLACES, waits("never".into()));
    for kill in 0..KILLS {
        tasks.push(("mark", format!("[{:?}, 0]", path(format!("mark-{kill}")))));
        tasks.push(waits(format!("gate-{}", kill + 1)));
    }
    tasks.resize(TASKS, waits("never".into()));
    for (method, payload) in &tasks {
        served.ask(["submit", &served.fleet, method, payload]);
    }
    until("all places are taken", || open(&served) == LABORS * PLACES);

    let (mut dispatched, mut all_ready) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        served.kill();
        fs::write(served.path(&format!("gate-{kill}")), "")?;
        let mark = served.path(&format!("mark-{kill}"));
        let start = Instant::now();
        let marked = std::thread::spawn(move || until_there(&mark));
        served.again().await;
        until("all labors are ready", || served.shown()["ready"] == LABORS);
        all_ready.push(millis(start.elapsed()));
        let at = marked.join().map_err(|_| "the next task did not run")?;
        dispatched.push(millis(at.duration_since(start)));
    }
    if self::lives(&served) != lives {
        return Err("a labor was replaced over a kill of the server".into());
    }
    served.stop().await;
    let unit = Unit::Milliseconds;
    Ok(vec![
        Row::new("killed server: next task", unit, dispatched).goal(1000.0),
        Row::new("killed server: all ready", unit, all_ready),
    ])
}

fn lives(served: &Served) -> Vec<String> {
    let shown = served.shown();
    let children = shown["children"].as_array().cloned().unwrap_or_default();
    children.iter().map(|labor| format!("{}/{}", labor["id"], labor["generation"])).collect()
}

fn open(served: &Served) -> usize {
    let shown = served.shown();
    let children = shown["children"].as_array().cloned().unwrap_or_default();
    children.iter().filter_map(|labor| labor["open"].as_u64()).sum::<u64>() as usize
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until_there(path: &Path) -> Instant {
    until("the mark is there", || path.exists());
    Instant::now()
}
