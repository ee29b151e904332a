//! `overseer store`: looks after what a server keeps, while no server runs on it.

mod check;
mod copy;
mod kinds;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use overseer::data_dir::DataDir;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::opening::cannot_open;
use crate::output;
use crate::serve::configured;

const EXAMPLES: &str = "\
Examples:
  overseer store check                         the data directory of the server here
  overseer store check --data /var/lib/overseer --deep
  overseer store export before-update.export
  overseer store import before-update.export --data /var/lib/overseer-new

No server may run on the directory meanwhile.";

/// Checks, exports and imports what a server keeps
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    Check(CheckArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

const CHECK_EXAMPLES: &str = "\
Examples:
  overseer store check --data /var/lib/overseer
  overseer store check --deep --json | jq .problems

It changes nothing that is stored.

Exit codes: 0 nothing is wrong, 1 problems were found, 2 something has to be put right before it can
be opened (a server runs on it, it is damaged, of a newer Overseer, of another user), 3 the disk failed.";

/// Says whether everything in a data directory can be read and fits together
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
struct CheckArgs {
    /// Data directory; else that of the server that `overseer serve` would start here
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Also read all bytes of the blobs that are named
    #[arg(long)]
    deep: bool,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  overseer store export before-update.export
  overseer store export all.export --blobs --data /var/lib/overseer

The file holds the private key of the certificate authority: it has mode 0600, and who has it can
make labors of this server. Keep it as you keep keys. Logs are not in it; blobs (large payloads and
results) are with --blobs.";

/// Writes all that a server keeps to one file
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
struct ExportArgs {
    /// File to be made
    file: PathBuf,
    /// Data directory; else that of the server that `overseer serve` would start here
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// With all blobs
    #[arg(long)]
    blobs: bool,
}

const IMPORT_EXAMPLES: &str = "\
Example:
  overseer store import all.export --data /var/lib/overseer-new

The file is checked before anything is written. The directory appears complete, or not at all. It
has the same certificate authority: labors of the server that was exported go on with it. Two
servers must not run with the same one: end the old one first.";

/// Makes a data directory out of an export
#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLES)]
struct ImportArgs {
    /// File that `overseer store export` has made
    file: PathBuf,
    /// Data directory to be made; nothing or an empty directory may be there
    #[arg(long, value_name = "NEWDIR")]
    data: PathBuf,
}

/// Runs one of the commands.
pub(crate) fn run(args: StoreArgs) -> Result<Exit, Failure> {
    let json = args.json;
    match args.command {
        StoreCommand::Check(args) => check::run(&open(args.data)?, args.deep, json),
        StoreCommand::Export(args) => copy::export(&open(args.data)?, &args.file, args.blobs, json),
        StoreCommand::Import(args) => copy::import(&args.file, &args.data, json),
    }
}

/// Opens the directory of a server that does not run.
fn open(data: Option<PathBuf>) -> Result<DataDir, Failure> {
    let data = match data {
        Some(data) => Some(data),
        None => configured::data_directory()?,
    };
    let data = data.ok_or_else(|| {
        Failure::input("store.no_data", "there is no place where a data directory would be")
            .help("give --data DIR")
    })?;
    DataDir::open_existing(&data).map_err(|error| cannot_open(&data, &error))
}

/// A line that says how far it is, on a terminal; nothing elsewhere and with `--json`.
fn progress(json: bool, what: &'static str) -> Option<ProgressBar> {
    let bar = output::progress().filter(|_| !json)?.add(ProgressBar::new_spinner());
    bar.set_message(what);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    Some(bar)
}
