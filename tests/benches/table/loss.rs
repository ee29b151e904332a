//! An agent that dies or hangs: when it is seen, and when its replacement is ready.

use std::time::{Duration, Instant};

use overseer::local::Local;
use overseer::{BoxError, LaborState};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use crate::bench::{Bench, ready};
use crate::peers::recorded;
use crate::row::{Row, Unit, millis};

/// Fewer than the restarts within a minute that a fleet allows.
const KILLS: usize = 8;
const FLEETS: usize = 3;
const HANGS: u32 = 8;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let (mut seen, mut replaced) = (Vec::new(), Vec::new());
    for _ in 0..FLEETS {
        kills(bench, &mut seen, &mut replaced).await?;
    }
    Ok(vec![
        Row::new("kill -9 seen", Unit::Milliseconds, seen).against(recorded("Elixir", "crash")).goal(2.0),
        Row::new("seen to replacement ready", Unit::Milliseconds, replaced).goal(100.0),
        Row::new("SIGSTOP seen", Unit::Milliseconds, hangs(bench).await?)
            .against(recorded("Elixir", "hang"))
            .goal(3000.0),
    ])
}

async fn kills(bench: &Bench, seen: &mut Vec<f64>, replaced: &mut Vec<f64>) -> Result<(), BoxError> {
    let adapter = Local::new();
    let fleet = bench.fleet(adapter.clone()).await?;
    let labor = ready(&fleet, 1).await?.remove(0);
    for _ in 0..KILLS {
        let generation = labor.status().generation;
        let (_, pid) = adapter.processes().pop().ok_or("no agent")?;
        let killed = Instant::now();
        signal(pid, Signal::KILL)?;
        labor.wait_for(|s| s.generation != generation || s.state != LaborState::Ready).await;
        let known = Instant::now();
        labor.wait_for(|s| s.generation != generation && s.state == LaborState::Ready).await;
        seen.push(millis(known - killed));
        replaced.push(millis(known.elapsed()));
    }
    fleet.stop().await;
    Ok(())
}

async fn hangs(bench: &Bench) -> Result<Vec<f64>, BoxError> {
    let adapter = Local::new();
    let fleet = bench.fleet(adapter.clone()).await?;
    ready(&fleet, HANGS as usize).await?;
    let mut tasks = JoinSet::new();
    for (number, (key, pid)) in (0..HANGS).zip(adapter.processes()) {
        let labor = fleet.labor(key.labor).ok_or("no labor")?;
        tasks.spawn(async move {
            // At different times between two heartbeats.
            tokio::time::sleep(Duration::from_secs(1) * number / HANGS).await;
            let stopped = Instant::now();
            signal(pid, Signal::STOP)?;
            labor.wait_for(|s| s.state != LaborState::Ready).await;
            let seen = millis(stopped.elapsed());
            signal(pid, Signal::CONT)?;
            Ok::<f64, BoxError>(seen)
        });
    }
    let mut samples = Vec::new();
    while let Some(seen) = tasks.join_next().await {
        samples.push(seen??);
    }
    fleet.stop().await;
    Ok(samples)
}

fn signal(pid: u32, signal: Signal) -> Result<(), BoxError> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
    Ok(kill_process(pid, signal)?)
}
