//! Memory at rest, of an Overseer in a process of its own and of its labors: proportional (PSS)
//! and resident (RSS).

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use overseer::BoxError;
use serde::Deserialize;

use crate::peers::recorded;
use crate::row::{Row, Unit};

/// At rest: the connections for releases have been closed by then, idle threads have ended.
const REST: Duration = Duration::from_secs(12);

pub(crate) fn rows() -> Result<Vec<Row>, BoxError> {
    let one = measure(1)?;
    let many = measure(64)?;
    let row = |figure, mebibytes| Row::new(figure, Unit::Mebibytes, vec![mebibytes]);
    Ok(vec![
        row("Overseer, 1 labor, PSS", one.overseer.pss)
            .against(recorded("HyperQueue", "memory of the server"))
            .goal(12.0),
        row("Overseer, 1 labor, RSS", one.overseer.rss),
        row("Overseer, 64 labors, PSS", many.overseer.pss).goal(30.0),
        row("Overseer, 64 labors, RSS", many.overseer.rss),
        row("agent + plugin host, PSS", one.labor.pss)
            .against(recorded("HyperQueue", "memory of a worker"))
            .goal(12.0),
        row("agent + plugin host, RSS", one.labor.rss),
        row("64 agents + hosts, PSS", many.labor.pss),
    ])
}

struct Measured {
    overseer: Memory,
    labor: Memory,
}

/// Mebibytes.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    pss: f64,
    rss: f64,
}

#[derive(Deserialize)]
struct Up {
    agents: Vec<u32>,
}

fn measure(labors: usize) -> Result<Measured, BoxError> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bench_peer"))
        .args(["overseer", "probe_plugin", &labors.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let up: Up = serde_json::from_str(&line)?;
    std::thread::sleep(REST);
    let overseer = memory(child.id())?;
    let mut labor = Memory::default();
    for agent in up.agents {
        let hosts = children(agent)?;
        for pid in hosts.into_iter().chain([agent]) {
            let more = memory(pid)?;
            labor.pss += more.pss;
            labor.rss += more.rss;
        }
    }
    drop(child.stdin.take());
    child.wait()?;
    Ok(Measured { overseer, labor })
}

fn memory(pid: u32) -> Result<Memory, BoxError> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| -> Result<f64, BoxError> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).ok_or("no such line")?;
        let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes / 1024.0)
    };
    Ok(Memory { pss: of("Pss:")?, rss: of("Rss:")? })
}

/// The processes that one has started.
fn children(pid: u32) -> Result<Vec<u32>, BoxError> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Ok(found)
}
