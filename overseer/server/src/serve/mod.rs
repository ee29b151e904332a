//! `overseer serve`: fleets that are kept, and a control API to ask for them.

pub(crate) mod check;
pub(crate) mod configured;
pub(crate) mod control;
pub(crate) mod desired;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod gate;
mod metrics;
mod notify;
pub(crate) mod places;
pub(crate) mod reload;
mod run;
pub(crate) mod server;
pub(crate) mod slot;
mod socket;
pub(crate) mod taken_back;
mod upgrade;

use std::path::PathBuf;

use clap::Args;
use overseer::FleetName;

use crate::config::{self, Config, FETCHING, Fetch, Plan};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Target;

const EXAMPLES: &str = "\
Examples:
  overseer serve --example > overseer.toml     a configuration to begin with
  overseer serve --check                       says what is wrong with ./overseer.toml
  overseer serve --config /etc/overseer/overseer.toml

Signals: SIGTERM and SIGINT stop the server in good order, a second one at once; SIGHUP reads the
configuration again, as `overseer reload` does.

Exit codes: 0 stopped in good order; 2 something has to be put right first: a mistake in the
configuration, another server that runs, an address or a directory that cannot be used, a store that is
damaged or of a newer Overseer; 3 a fault, such as a full disk, after which it may be started again.";

/// Serves fleets: keeps their labors running, and answers `overseer fleet`, `call` and `logs`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Configuration; else ./overseer.toml, ~/.config/overseer/ or /etc/overseer/overseer.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory; goes before the configuration's
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only check the configuration and what it names
    #[arg(long)]
    check: bool,
    /// Only print a configuration with every key, explained
    #[arg(long, conflicts_with = "check")]
    example: bool,
    /// Print one JSON document: once it serves, or once it is checked
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a server is started from.
struct Start {
    config_path: PathBuf,
    plan: Plan,
    /// Fleets that cannot be planned, and why.
    faults: Vec<(FleetName, Failure)>,
    data: PathBuf,
    socket: PathBuf,
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: ServeArgs) -> Result<Exit, Failure> {
    if args.example {
        Target::Stdout.write(config::EXAMPLE);
        return Ok(Exit::Passed);
    }
    let config_path = match args.config {
        Some(path) => path,
        None => places::configuration().map_err(|places| not_configured(&places))?,
    };
    // A server may be asked to read it again from anywhere.
    let shown = config_path;
    let config_path = std::path::absolute(&shown).unwrap_or_else(|_| shown.clone());
    let config = Config::read(&shown)?;
    if args.check {
        return check::run(&shown, &config.plan()?, args.data, args.json);
    }
    // Labors of the other fleets wait for this server, and not for a download.
    let (plan, faults) = match config.plan_what_can_be(Fetch::Later) {
        Err(failure) if failure.code == FETCHING => config.plan_what_can_be(Fetch::Now)?,
        planned => planned?,
    };
    if faults.is_empty() {
        plan.remove_unused_downloads();
    }
    let (data, socket) = placed(&plan, args.data)?;
    run::serve(Start { config_path, plan, faults, data, socket, json: args.json })
}

/// The data directory and the socket of a server.
fn placed(plan: &Plan, data: Option<PathBuf>) -> Result<(PathBuf, PathBuf), Failure> {
    let data = data.or_else(|| plan.server.data.clone()).or_else(places::data_directory);
    let data = data.ok_or_else(|| {
        Failure::input("serve.data", "there is no place for the data directory")
            .help("give --data DIR, or `data` in [server]")
    })?;
    let data = std::path::absolute(&data).unwrap_or(data);
    let socket = plan.server.socket.clone().unwrap_or_else(|| places::socket(&data));
    Ok((data, socket))
}

fn not_configured(looked: &[PathBuf]) -> Failure {
    let looked: Vec<_> = looked.iter().map(|path| path.display().to_string()).collect();
    Failure::input("serve.no_config", format!("there is no configuration: no {}", looked.join(", no ")))
        .help("write one with `overseer serve --example > overseer.toml`, or give --config FILE")
}
