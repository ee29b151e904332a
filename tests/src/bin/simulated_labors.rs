//! How an Overseer bears many labors: sessions as agents have them (Join, Attach, heartbeats,
//! telemetry, over mutual TLS), without agents and plugin hosts. Prints a row for each number of
//! labors.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use overseer::{ControlPlane, Fleet, MainError};
use overseer_protocol::Bootstrap;
use overseer_tests::handed::Handed;
use overseer_tests::memory;
use overseer_tests::simulated::Swarm;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::json;

const HELP: &str = "\
Starts simulated labors against an Overseer in a process of its own, and measures that.

Usage: simulated_labors [--json] [--window SECONDS] [LABORS…]

  LABORS        how many, one row for each number (default 100 300 1000 3000)
  --window S    how long the steady state is looked at (default 20)
  --json        a document instead of a table

Example:
  cargo run --release -p overseer-tests --bin simulated_labors -- 100 1000";

/// What the last labors to come leave behind is gone by then.
const SETTLE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    overseer::init();
    // Each labor is a socket in both processes.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ran = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", labors] => labors.parse().map_err(MainError::from).and_then(serve),
        ["labors"] => labors(),
        _ => match Wanted::read(&args) {
            Some(wanted) => measure_all(&wanted),
            None => {
                println!("{HELP}");
                let asked = args.iter().any(|a| a == "--help");
                return if asked { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
        },
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

struct Wanted {
    json: bool,
    window: Duration,
    labors: Vec<usize>,
}

impl Wanted {
    fn read(args: &[String]) -> Option<Self> {
        let mut wanted = Self { json: false, window: Duration::from_secs(20), labors: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--json" => wanted.json = true,
                "--window" => wanted.window = Duration::from_secs(args.next()?.parse().ok()?),
                number => wanted.labors.push(number.parse().ok()?),
            }
        }
        if wanted.labors.is_empty() {
            wanted.labors = vec![100, 300, 1000, 3000];
        }
        Some(wanted)
    }
}

/// The Overseer. It prints the bootstrap document of each labor, then when all are ready, and ends
/// with its input.
fn serve(labors: usize) -> Result<(), MainError> {
    overseer::run(async move {
        let directory = tempfile::tempdir()?;
        let plane = ControlPlane::builder()
            .data_directory(directory.path().join("data"))
            .served(true)
            .listen(([127, 0, 0, 1], 0).into())
            .start()
            .await?;
        let (adapter, mut documents) = Handed::new();
        let fleet = Fleet::quiet().max_nodes(labors).adapter(adapter).control_plane(&plane).start().await?;
        let mut line = String::new();
        println!("{}", json!({"up": true}));
        std::io::stdin().lock().read_line(&mut line)?;
        let begun = Instant::now();
        let children = fleet.start_children(labors).await?;
        for _ in 0..labors {
            let document = documents.recv().await.ok_or("the adapter is gone")?;
            println!("{}", json!({"document": document}));
        }
        for child in &children {
            child.ready().await?;
        }
        println!("{}", json!({"ready_ms": begun.elapsed().as_millis() as u64}));
        // Somebody who listens, as a user does.
        let mut telemetry = fleet.telemetry();
        let listening = tokio::spawn(async move { while telemetry.next().await.is_some() {} });
        tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await??;
        let ready = fleet.count_children().await?.ready;
        let lives: Vec<u32> = children.iter().map(|c| c.status().generation.0).collect();
        let again = lives.iter().filter(|life| **life > 1).count();
        listening.abort();
        println!("{}", json!({"ready": ready, "again": again}));
        plane.shutdown().await;
        Ok(())
    })
}

/// The labors. Each line of the input is the bootstrap document of one; all end with it.
fn labors() -> Result<(), MainError> {
    overseer::run(async {
        let (send, mut documents) = tokio::sync::mpsc::channel::<Bootstrap>(64);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let Ok(document) = serde_json::from_str(&line) else { return };
                if send.blocking_send(document).is_err() {
                    return;
                }
            }
        });
        let mut swarm = Swarm::new();
        while let Some(document) = documents.recv().await {
            swarm.add(document).await;
        }
        swarm.end().await;
        Ok(())
    })
}

#[derive(Serialize)]
struct Row {
    labors: usize,
    /// Until all had joined and attached.
    join_ms: u64,
    /// Of a core, of the Overseer, in the steady state.
    cpu: f64,
    pss_kib: u64,
    rss_kib: u64,
    /// What each labor adds.
    pss_per_labor_kib: f64,
    rss_per_labor_kib: f64,
    /// That were ready at the end.
    ready: u64,
    /// That were not in their first life.
    again: u64,
}

fn measure_all(wanted: &Wanted) -> Result<(), MainError> {
    let mut rows = Vec::new();
    if !wanted.json {
        println!("labors   join ms   ms each   CPU %   PSS MiB   KiB each   RSS KiB each");
    }
    for labors in &wanted.labors {
        let row = measure(*labors, wanted.window)?;
        if !wanted.json {
            println!(
                "{:>6}   {:>7}   {:>7.2}   {:>5.1}   {:>7.1}   {:>8.1}   {:>12.1}",
                row.labors,
                row.join_ms,
                row.join_ms as f64 / row.labors as f64,
                row.cpu * 100.0,
                row.pss_kib as f64 / 1024.0,
                row.pss_per_labor_kib,
                row.rss_per_labor_kib
            );
        }
        if row.ready as usize != row.labors || row.again > 0 {
            return Err(format!("{} of {labors} were ready at the end, {} lost", row.ready, row.again).into());
        }
        rows.push(row);
    }
    if wanted.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}

fn measure(labors: usize, window: Duration) -> Result<Row, MainError> {
    let mut server = Part::start(&["serve", &labors.to_string()])?;
    let mut swarm = Part::start(&["labors"])?;
    server.hears("up")?;
    // The pages of an idle server.
    std::thread::sleep(Duration::from_secs(1));
    let before = memory::of(server.pid())?;
    server.tell("start")?;
    for _ in 0..labors {
        let document = server.hears("document")?;
        swarm.tell(&document.to_string())?;
    }
    let join_ms = server.hears("ready_ms")?.as_u64().unwrap_or_default();
    std::thread::sleep(SETTLE);
    let (cpu, from) = (memory::cpu_seconds(server.pid())?, Instant::now());
    std::thread::sleep(window);
    let cpu = (memory::cpu_seconds(server.pid())? - cpu) / from.elapsed().as_secs_f64();
    let after = memory::of(server.pid())?;
    server.tell("end")?;
    let last = server.next()?;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1024.0 / labors as f64;
    Ok(Row {
        labors,
        join_ms,
        cpu,
        pss_kib: after.pss >> 10,
        rss_kib: after.rss >> 10,
        pss_per_labor_kib: each(after.pss, before.pss),
        rss_per_labor_kib: each(after.rss, before.rss),
        ready: last["ready"].as_u64().unwrap_or_default(),
        again: last["again"].as_u64().unwrap_or_default(),
    })
}

/// One of the two processes, killed when this goes.
struct Part {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Part {
    fn start(args: &[&str]) -> Result<Self, MainError> {
        let mut command = Command::new("/proc/self/exe");
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, said })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, line: &str) -> Result<(), MainError> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        Ok(writeln!(input, "{line}")?)
    }

    fn next(&mut self) -> Result<serde_json::Value, MainError> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn hears(&mut self, key: &str) -> Result<serde_json::Value, MainError> {
        let mut said = self.next()?;
        let value = said.get_mut(key).map(serde_json::Value::take);
        value.ok_or_else(|| format!("it says {said} instead of {key}").into())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
