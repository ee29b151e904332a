//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::build::BuildArgs;
use crate::client::{
    AuditArgs, AuthorityArgs, CallArgs, FleetArgs, LogsArgs, ReloadArgs, StatusArgs, SubmitArgs, TaskArgs,
    TokenArgs,
};
use crate::doctor::DoctorArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Color};
use crate::serve::ServeArgs;
use crate::store::StoreArgs;
use crate::{build, client, doctor, labor, release, serve, store};

const EXAMPLES: &str = "\
Examples:
  overseer build .                            build HEAD of the repository here
  overseer build https://host/repo --rev v1.2 build a tag of a remote repository
  overseer release pack hello/ --key me.key   pack and sign a release
  overseer serve --config overseer.toml       keep fleets running
  overseer call web greet '\"world\"'           call what a fleet runs
  overseer submit web resize --file job.json  give it a task that outlives everybody
  overseer store export all.export            all that a server keeps, in one file
  overseer doctor                             what is missing on this machine";

/// A supervisor for machines: starts them, ships them software, watches them and builds commits
/// on them.
#[derive(Debug, Parser)]
#[command(name = "overseer", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// Log more to standard error (-vv: even more); RUST_LOG does it in detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(BuildArgs),
    Serve(ServeArgs),
    Fleet(FleetArgs),
    Call(CallArgs),
    Submit(SubmitArgs),
    Task(TaskArgs),
    Logs(LogsArgs),
    Status(StatusArgs),
    Reload(ReloadArgs),
    Token(TokenArgs),
    Audit(AuditArgs),
    Authority(AuthorityArgs),
    Store(StoreArgs),
    Release(ReleaseArgs),
    Labor(overseer_labor::LaborArgs),
    Doctor(DoctorArgs),
}

const RELEASE_EXAMPLES: &str = "\
Examples:
  overseer release keygen me
  overseer release pack hello/ --key me.key
  overseer release verify hello-1.0.0.release --trust me.pub";

/// Packs, signs, inspects and verifies releases: what labors run
#[derive(Debug, Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub(crate) struct ReleaseArgs {
    #[command(subcommand)]
    pub(crate) command: ReleaseCommand,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    Pack(Box<PackArgs>),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Keygen(KeygenArgs),
}

const PACK_EXAMPLES: &str = "\
Examples:
  overseer release pack hello/ --key me.key
  overseer release pack --plugin target/release/libhello.so --name hello --release-version 1.0.0
  overseer release pack --program target/release/worker --name worker --release-version 1.0.0 \\
      --serve --arg=--quiet --env GREETING=hi --out worker.release
  overseer release pack --program resize.sh --name resize --release-version 1.0.0 --run";

/// Packs a directory with a release.toml, a plugin library or a program into one file
#[derive(Debug, Args)]
#[command(after_help = PACK_EXAMPLES)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["directory", "plugin", "program"]))]
pub(crate) struct PackArgs {
    /// Directory with a release.toml
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Plugin library, built as a cdylib
    #[arg(long, value_name = "LIB", requires = "name", requires = "release_version")]
    pub(crate) plugin: Option<PathBuf>,
    /// Executable
    #[arg(long, value_name = "PROGRAM", requires = "name", requires = "release_version")]
    pub(crate) program: Option<PathBuf>,
    /// Name of the release: a letter, then a-z 0-9 - _ and dots
    #[arg(long, conflicts_with = "directory")]
    pub(crate) name: Option<String>,
    /// Its semantic version, such as 1.0.0
    #[arg(long, value_name = "V", conflicts_with = "directory")]
    pub(crate) release_version: Option<String>,
    /// An argument of the program; may be given often
    #[arg(
        long = "arg",
        value_name = "ARG",
        conflicts_with_all = ["plugin", "directory"],
        allow_hyphen_values = true
    )]
    pub(crate) args: Vec<String>,
    /// The program answers calls: the plugin host's protocol on its standard input
    #[arg(long, conflicts_with_all = ["plugin", "directory"])]
    pub(crate) serve: bool,
    /// The program is run once for each call or task: payload on its standard input, result on its
    /// standard output
    #[arg(long, conflicts_with_all = ["plugin", "directory", "serve"])]
    pub(crate) run: bool,
    /// So many of these runs at once on one labor
    #[arg(long, value_name = "N", requires = "run", default_value_t = 1)]
    pub(crate) concurrency: u32,
    /// A variable of what runs the release; may be given often
    #[arg(long = "env", value_name = "NAME=VALUE", conflicts_with = "directory")]
    pub(crate) environment: Vec<String>,
    /// One more file of the release; may be given often
    #[arg(long = "file", value_name = "PATH=FILE", conflicts_with = "directory")]
    pub(crate) files: Vec<String>,
    /// Target triple, if not of this machine's kind
    #[arg(long, value_name = "TRIPLE", conflicts_with = "directory")]
    pub(crate) target: Option<String>,
    /// Sign with this key, made by `overseer release keygen`
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// File, or directory for NAME-VERSION.release
    #[arg(long, value_name = "FILE", default_value = ".")]
    pub(crate) out: PathBuf,
}

const INSPECT_EXAMPLES: &str = "\
Example:
  overseer release inspect hello-1.0.0.release";

/// Shows what is in a release, and checks all of it but trust
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Packed release
    pub(crate) file: PathBuf,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  overseer release verify hello-1.0.0.release --trust me.pub
  overseer release verify hello-1.0.0.release --trust 4f2c…   (64 hexadecimal digits)

Exit codes: 0 it would run here, 1 it would be refused, 2 it cannot be read.";

/// Says whether a labor with these trusted keys would run a release
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Packed release
    pub(crate) file: PathBuf,
    /// Trusted key: a .pub file or its text; may be given often
    #[arg(long, value_name = "KEY", required = true)]
    pub(crate) trust: Vec<String>,
}

const KEYGEN_EXAMPLES: &str = "\
Example:
  overseer release keygen me      writes me.key (keep it secret) and me.pub";

/// Makes a key to sign releases with
#[derive(Debug, Args)]
#[command(after_help = KEYGEN_EXAMPLES)]
pub(crate) struct KeygenArgs {
    /// Path of the files without their endings
    pub(crate) name: PathBuf,
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    output::set_colors(cli.color);
    // An agent logs by itself.
    if !matches!(cli.command, Command::Labor(_)) {
        output::log(cli.verbose);
    }
    let (json, result) = match cli.command {
        // It ends with codes of its own.
        Command::Labor(args) => return labor::run(args),
        Command::Build(args) => (args.json, build::run(args)),
        Command::Serve(args) => (args.json, serve::run(args)),
        Command::Fleet(args) => (args.common.json, client::fleet(args)),
        Command::Call(args) => (args.common.json, client::call(args)),
        Command::Submit(args) => (args.common.json, client::submit(args)),
        Command::Task(args) => (args.common.json, client::task(args)),
        Command::Logs(args) => (args.common.json, client::logs(args)),
        Command::Status(args) => (args.common.json, client::status(args)),
        Command::Reload(args) => (args.common.json, client::reload(args)),
        Command::Token(args) => (args.common.json, client::token(args)),
        Command::Authority(args) => (args.common.json, client::authority(args)),
        Command::Audit(args) => (args.common.json, client::audit(args)),
        Command::Store(args) => (args.json, store::run(args)),
        Command::Release(args) => (args.json, release::run(args)),
        Command::Doctor(args) => (args.json, doctor::run(&args)),
    };
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => fail(failure, json),
    };
    if let Some(why) = output::lost() {
        output::Target::Stderr.write(&format!("error: standard output could not be written: {why}\n"));
        return if exit == Exit::Passed { Exit::Fault.into() } else { exit.into() };
    }
    exit.into()
}

/// Help, the version, or arguments that make no sense.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let asked_for_json = || std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && asked_for_json() {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim();
        output::json(&Failure::input("usage", message).document());
    }
    // A reader that has gone away needs no help.
    let _ = error.print();
    if error.use_stderr() { Exit::BadInput.into() } else { Exit::Passed.into() }
}

fn fail(failure: Failure, json: bool) -> Exit {
    if json {
        output::json(&failure.document());
    }
    let exit = failure.exit;
    let text = format!("{:?}", miette::Report::new(failure));
    output::Target::Stderr.write(&format!("{}\n", text.trim_end()));
    exit
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn every(command: &clap::Command, seen: &mut impl FnMut(&clap::Command)) {
        seen(command);
        command.get_subcommands().for_each(|c| every(c, seen));
    }

    #[test]
    fn the_arguments_make_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        every(&Cli::command(), &mut |command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has none", command.get_name());
        });
    }
}
