//! Process tasks: a program that does nothing, run once for each call or stored task, on four labors,
//! beside what this machine can spawn at most. By turns, for machines are noisy.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overseer::local::Local;
use overseer::release::{Mode, ReleaseBuilder};
use overseer::{BoxError, CallOptions, FleetHandle, Release, TaskOptions};

use crate::bench::{Bench, ready};
use crate::callers::{rates, slices};
use crate::peers::{recorded, recorded_share};
use crate::row::{Against, Row, Unit};

const LABORS: usize = 4;
/// Calls or tasks that are open.
const OPEN: usize = 64;
const TURNS: usize = 3;
/// Percent of the spawn floor.
const GOAL: f64 = 85.0;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let program = bench.directory().join("true");
    std::fs::copy("/bin/true", &program)?;
    let builder = ReleaseBuilder::program("true", "1.0.0", &program).mode(Mode::Run { concurrency: 1 });
    let fleet = bench.builder(Local::new(), Release::pack(builder)?).start().await?;
    ready(&fleet, LABORS).await?;
    let (mut floor, mut calls, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        floor.extend(spawns(&program).await?);
        calls.extend(rates(OPEN, call(&fleet)).await?);
        floor.extend(spawns(&program).await?);
        tasks.extend(rates(OPEN, submit(&fleet)).await?);
    }
    fleet.stop().await;
    let rate = Unit::PerSecond;
    let spawns = Against::measured("spawns", rate, floor);
    let share = |samples: &[f64]| samples.iter().map(|rate| 100.0 * rate / spawns.median).collect();
    let percent = |name, samples| {
        Row::new(name, Unit::Percent, share(samples))
            .against(recorded_share("HyperQueue", "tasks"))
            .goal(GOAL)
    };
    Ok(vec![
        Row::new("process calls, 4 labors", rate, calls.clone()).against(spawns.clone()),
        percent("of what can be spawned", &calls),
        Row::new("process tasks, stored", rate, tasks.clone()).against(spawns.clone()),
        percent("of what can be spawned", &tasks),
        Row::new("process tasks, stored", rate, tasks.clone()).against(recorded("HyperQueue", "tasks")),
    ])
}

type Answered = std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

fn call(fleet: &FleetHandle) -> impl Fn() -> Answered + Clone + Send + 'static {
    let fleet = fleet.clone();
    move || {
        let fleet = fleet.clone();
        Box::pin(async move { Ok(fleet.call_bytes("run", "", CallOptions::default()).await.map(drop)?) })
    }
}

fn submit(fleet: &FleetHandle) -> impl Fn() -> Answered + Clone + Send + 'static {
    let fleet = fleet.clone();
    move || {
        let fleet = fleet.clone();
        Box::pin(async move {
            let task = fleet.submit_bytes("run", "", TaskOptions::default()).await?;
            Ok(task.result_bytes().await.map(drop)?)
        })
    }
}

/// Processes a second that this machine starts and waits for at most: as many spawn as labors do, which
/// is more than one for each core can, for one waits while its child starts.
async fn spawns(program: &Path) -> Result<Vec<f64>, BoxError> {
    let (count, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let spawning: Vec<_> = (0..LABORS)
        .map(|_| {
            let (program, count, done) = (program.to_owned(), Arc::clone(&count), Arc::clone(&done));
            std::thread::spawn(move || -> std::io::Result<()> {
                while !done.load(Ordering::Relaxed) {
                    Command::new(&program).stdin(Stdio::inherit()).status()?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let samples = slices(&count).await;
    done.store(true, Ordering::Relaxed);
    for thread in spawning {
        thread.join().map_err(|_| "a thread that spawns has ended")??;
    }
    Ok(samples)
}
