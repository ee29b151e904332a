//! Runs the control plane in virtual time, one seed after the other: see `overseer_tests::simulation`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use overseer_tests::simulation::{FAULTY, Faults, Kind, Outcome, run};

const HELP: &str = "\
Runs the control plane in virtual time with seeded faults, and checks what must hold.

Usage: simulate [--seeds N] [--from SEED] [--seconds S]

  --seeds N     so many seeds (default 100)
  --from SEED   the first of them (default 1)
  --seconds S   stop after so many seconds, however many seeds that makes

Examples:
  simulate --seeds 1000
  simulate --from 4711 --seeds 1";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut seeds, mut from, mut limit) = (100u64, 1u64, None);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok());
        let good = match arg.as_str() {
            "--seeds" => number().map(|n| seeds = n),
            "--from" => number().map(|n| from = n),
            "--seconds" => number().map(|n| limit = Some(Duration::from_secs(n))),
            _ => None,
        };
        if good.is_none() {
            println!("{HELP}");
            return if arg == "--help" { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    }
    // A failure is said once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut sum = Sum::default();
    for seed in from..from.saturating_add(seeds) {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        match run(seed, &BTreeSet::new(), None) {
            Ok(outcome) => sum.add(outcome),
            Err(why) => {
                println!("seed {seed} fails: {why}");
                println!("{}", shrink(seed));
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{sum} in {:.1} s", started.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

/// The fewest kinds of faults and the shortest time of them that still fail.
fn shrink(seed: u64) -> String {
    let mut without = BTreeSet::new();
    for kind in Kind::ALL {
        without.insert(kind);
        if run(seed, &without, None).is_ok() {
            without.remove(&kind);
        }
    }
    let mut shortest = FAULTY;
    for part in 1..=20 {
        let faulty = FAULTY * part / 20;
        if run(seed, &without, Some(faulty)).is_err() {
            shortest = faulty;
            break;
        }
    }
    let needed: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !without.contains(kind)).collect();
    let why = run(seed, &without, Some(shortest)).err().unwrap_or_default();
    format!("shrunk to {needed:?} within {shortest} ms:\n{why}")
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    done: u64,
    failed: BTreeMap<&'static str, u64>,
    faults: Faults,
    covered: BTreeMap<(String, String), u64>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.done += outcome.done;
        for (code, n) in outcome.failed {
            *self.failed.entry(code).or_default() += n;
        }
        for (kind, n) in outcome.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (pair, n) in outcome.covered {
            *self.covered.entry(pair).or_default() += n;
        }
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "tasks done {}, without a result {:?}", self.done, self.failed)?;
        writeln!(f, "faults {:?}", self.faults)?;
        writeln!(f, "(state, event) pairs covered: {}", self.covered.len())?;
        write!(f, "{} seeds, {} steps, 0 violations", self.seeds, self.steps)
    }
}
