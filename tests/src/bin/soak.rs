//! Faults of every kind under load, for as long as one likes: see `overseer_tests::soak`.

use std::process::ExitCode;
use std::time::Duration;

use overseer::MainError;
use overseer_tests::soak::{Options, run, serve};
use overseer_tests::steps::Random;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const HELP: &str = "\
Kills, stops and cuts off agents, plugin hosts and the server, with tasks and calls on their way, and
holds what is recorded against what happened. Exit code 1: something was not as it must be.

Usage: soak [--minutes M | --seconds S | --rounds N] [--labors N] [--seed SEED] [--json]

  --minutes M   faults are made for so long (default 1)
  --seconds S   the same in seconds
  --rounds N    or until so many faults were made
  --labors N    so many labors (default 50)
  --seed SEED   the same faults again, as far as the machine lets it
  --json        the report as JSON

Example:
  cargo run --release -p overseer-tests --bin soak -- --minutes 10 --labors 50";

fn main() -> ExitCode {
    overseer::init();
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let ["serve", data, name, labors, cables] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let served: Result<(), MainError> =
            overseer::run(async { serve(data, name, labors.parse()?, cables).await });
        return match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    let Some((options, json)) = read(&args) else {
        println!("{HELP}");
        return if args.iter().any(|a| a == "--help") { ExitCode::SUCCESS } else { ExitCode::from(2) };
    };
    eprintln!("--seed {}", options.seed);
    let mut clean = false;
    let ran: Result<(), MainError> = overseer::run(async {
        let report = run(&options).await?;
        clean = report.violations.is_empty();
        match json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("{report}"),
        }
        Ok(())
    });
    match ran {
        Ok(()) if clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::from(3)
        }
    }
}

fn read(args: &[String]) -> Option<(Options, bool)> {
    let mut options = Options {
        time: Duration::from_secs(60),
        rounds: None,
        labors: 50,
        seed: Random::from_environment().seed(),
    };
    let mut json = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok());
        match arg.as_str() {
            "--minutes" => options.time = Duration::from_secs(60 * number()?),
            "--seconds" => options.time = Duration::from_secs(number()?),
            "--rounds" => {
                options.rounds = Some(number()? as usize);
                options.time = Duration::from_secs(24 * 3600);
            }
            "--labors" => options.labors = number()? as usize,
            "--seed" => options.seed = number()?,
            "--json" => json = true,
            _ => return None,
        }
    }
    (options.labors > 0).then_some((options, json))
}
