//! The agent's command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use overseer_protocol::{Amount, AmountError, Bootstrap, JoinTokenError};
use rustix::process::DumpableBehavior;
use serde::Serialize;

use crate::document::{self, Source, SourceError};
use crate::exit::Exit;
use crate::joining::{self, JoinArgs};
use crate::run::{AgentConfig, run};
use crate::tells::Tells;

const EXAMPLES: &str = "\
Examples:
  overseer labor --bootstrap /run/overseer/bootstrap.json --directory /var/lib/labor
  overseer labor --stdin < bootstrap.json
  overseer labor --stdin --cache /var/cache/releases --cache-quota 10GiB < bootstrap.json
  OVERSEER_BOOTSTRAP=\"$(cat bootstrap.json)\" overseer labor
  overseer labor join overseer-join-…          on a machine of your own

The small program `labor` is the same: `labor` in place of `overseer labor`.

Exit codes:
   0  asked to end, or drained
   2  bad arguments, or the directory cannot be used
  10  the bootstrap document cannot be read
  11  refused by the Overseer (claim, certificate or version); do not retry
  12  no word from the Overseer for as long as the lease
  13  the owner's pipe was closed
  14  ended by a second signal or the drain deadline, work was given up

RUST_LOG sets what is logged to standard error; the default is warn.";

/// Runs the agent of a node: pairs with the Overseer of the bootstrap document, and runs what it
/// is sent.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct LaborArgs {
    #[command(subcommand)]
    command: Option<LaborCommand>,
    /// Read the bootstrap document from this file
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    bootstrap: Option<PathBuf>,
    /// Read the bootstrap document from standard input; with `owner_pipe` it is one line, and the
    /// agent ends when the input does
    #[arg(long)]
    stdin: bool,
    /// Keep releases, logs and scratch files here, instead of where the document says or in a new
    /// temporary directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Log JSON to standard error, one document on a line, and say at the end in one on standard
    /// output how it ended
    #[arg(long)]
    json: bool,
}

/// What is kept of releases, where that is not as the document says.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct CacheArgs {
    /// Keep the chunks of releases here, shared with all agents of this user that are told the same,
    /// instead of where the document says or below the directory above
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Keep so many bytes of them at most, such as 500MiB; 0 keeps nothing. The default is 2GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    cache_quota: Option<u64>,
}

fn bytes(text: &str) -> Result<u64, AmountError> {
    Ok(match Amount::parse_bytes(text)? {
        Amount::Units(bytes) => bytes,
        Amount::Unlimited => u64::MAX,
    })
}

impl CacheArgs {
    /// The document as the command line has it.
    pub(crate) fn over(self, mut bootstrap: Bootstrap) -> Bootstrap {
        let cache = &mut bootstrap.cache;
        cache.directory = self.cache.or(cache.directory.take());
        cache.quota = self.cache_quota.unwrap_or(cache.quota);
        bootstrap
    }
}

#[derive(Debug, Clone, clap::Subcommand)]
enum LaborCommand {
    Join(JoinArgs),
}

/// What `--json` says at the end.
#[derive(Serialize)]
struct Ended {
    event: &'static str,
    exit: u8,
    meaning: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Why an agent came to its end before it began.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("no bootstrap document; give --bootstrap FILE or --stdin, or set {}", document::VARIABLE)]
    NoDocument,
    #[error(transparent)]
    Document(#[from] SourceError),
    #[error(transparent)]
    Token(#[from] JoinTokenError),
    #[error("the token cannot be read from standard input: {0}; pipe it in, or give it as the argument")]
    NoToken(std::io::Error),
    #[error("there is no place for the agent's files, for $HOME is not set; name one with --dir")]
    NoDirectory,
    #[error("no runtime: {0}; raise the limits of processes and open files")]
    NoRuntime(std::io::Error),
}

impl Fault {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Document(_) | Self::Token(_) | Self::NoToken(_) => Exit::Bootstrap,
            Self::NoDocument | Self::NoDirectory | Self::NoRuntime(_) => Exit::Usage,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NoDocument => "labor.no_document",
            Self::Document(error) => error.code(),
            Self::Token(error) => error.code(),
            Self::NoToken(_) => "labor.no_token",
            Self::NoDirectory => "labor.no_directory",
            Self::NoRuntime(_) => "labor.no_runtime",
        }
    }
}

/// Runs the agent to its end, with logging to standard error.
pub fn main(args: LaborArgs) -> ExitCode {
    if let Some(LaborCommand::Join(args)) = args.command {
        return joining::main(args);
    }
    let source = match (args.bootstrap, args.stdin) {
        (Some(path), _) => Ok(Source::File(path)),
        (None, true) => Ok(Source::Stdin),
        (None, false) => std::env::var(document::VARIABLE).map(Source::Text).map_err(|_| Fault::NoDocument),
    };
    log_to_stderr(args.json);
    let started = source.and_then(|source| {
        let bootstrap = args.cache.over(source.read()?);
        start(bootstrap, args.directory, Tells::Nobody)
    });
    let (exit, fault) = match started {
        Ok(exit) => (exit, None),
        Err(fault) => (fault.exit(), Some(fault)),
    };
    ended(exit, fault.as_ref(), args.json)
}

/// Says how it ended.
pub(crate) fn ended(exit: Exit, fault: Option<&Fault>, json: bool) -> ExitCode {
    if let Some(fault) = fault {
        say(fault);
    }
    if json {
        let message = fault.map(ToString::to_string);
        let code = fault.map(Fault::code);
        let ended = Ended { event: "ended", exit: exit.code(), meaning: exit.meaning(), code, message };
        println!("{}", serde_json::to_string(&ended).unwrap_or_default());
    }
    exit.into()
}

/// As [`main`], for a program that was started again as its own agent.
pub(crate) fn main_of_child(source: &Source, directory: Option<PathBuf>) -> ExitCode {
    log_to_stderr(false);
    let read = source.read().map_err(Fault::from);
    match read.and_then(|bootstrap| start(bootstrap, directory, Tells::Nobody)) {
        Ok(exit) => exit.into(),
        Err(fault) => {
            say(&fault);
            fault.exit().into()
        }
    }
}

/// Says it where that can be said.
fn say(fault: &Fault) {
    let _ = writeln!(std::io::stderr(), "labor: {fault}");
}

/// Makes a runtime of one thread, and runs the agent.
pub(crate) fn start(bootstrap: Bootstrap, directory: Option<PathBuf>, tells: Tells) -> Result<Exit, Fault> {
    // Whoever is the same user could read its memory otherwise, with its keys: a plugin is, where the fleet
    // does not say another one. It costs core dumps and debuggers that are not root's.
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("plugins of this user can read the agent's memory: {error}");
    }
    if let Err(error) = crate::orphans::adopt() {
        tracing::warn!("orphans of plugins are found by their mark only: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // They unpack, read and write files, one after the other.
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()
        .map_err(Fault::NoRuntime)?;
    let exit = runtime.block_on(run(AgentConfig { bootstrap, directory, tells }));
    // What blocks in the background must not hold up the end.
    runtime.shutdown_background();
    Ok(exit)
}

/// Logs to standard error, as `RUST_LOG` says; only warnings without it, and then without the
/// cost of reading filters.
pub(crate) fn log_to_stderr(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = std::env::var("RUST_LOG").ok().map(EnvFilter::new);
    // A disk that is full takes no line of the log; to say so there would panic.
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).log_internal_errors(false);
    // Somebody else's logging, in whose process the agent runs, is as good.
    let _ = match (filter, json) {
        (Some(filter), false) => builder.with_env_filter(filter).try_init(),
        (None, false) => builder.with_max_level(tracing::Level::WARN).try_init(),
        (Some(filter), true) => builder.json().with_env_filter(filter).try_init(),
        (None, true) => builder.json().with_max_level(tracing::Level::WARN).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use overseer_protocol::ReleaseCache;

    use super::*;

    #[test]
    fn the_command_line_is_over_the_document() {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            labor: LaborArgs,
        }
        let read = |args: &[&str]| {
            let all = ["labor", "--stdin"].iter().chain(args);
            <Program as clap::Parser>::try_parse_from(all).map(|program| program.labor.cache)
        };
        let told = |args: &[&str], cache: ReleaseCache| {
            let mut document = crate::document::tests::document(false);
            document.cache = cache;
            read(args).unwrap().over(document).cache
        };
        let here = ReleaseCache::at("/here").quota(7);
        assert_eq!(told(&[], here.clone()), here);
        assert_eq!(told(&["--cache", "/there"], here.clone()), ReleaseCache::at("/there").quota(7));
        assert_eq!(told(&["--cache-quota", "3KiB"], here.clone()), here.clone().quota(3072));
        assert_eq!(told(&["--cache-quota", "0"], here.clone()).quota, 0);
        assert_eq!(told(&["--cache-quota=unlimited"], here).quota, u64::MAX);
        let error = read(&["--cache-quota", "much"]).unwrap_err().to_string();
        assert!(error.contains("--cache-quota") && error.contains("expected bytes"), "{error}");
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in Exit::ALL {
            let line = format!("{:>4}  {}", exit.code(), exit.meaning());
            assert!(EXAMPLES.contains(&line), "{line:?} is not in the help");
        }
    }
}
