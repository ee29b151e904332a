//! The agent's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::document::{self, Source};
use crate::exit::Exit;
use crate::run::{AgentConfig, run};

const EXAMPLES: &str = "\
Examples:
  labor --bootstrap /run/overseer/bootstrap.json --directory /var/lib/labor
  labor --stdin < bootstrap.json
  OVERSEER_BOOTSTRAP=\"$(cat bootstrap.json)\" labor

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
#[command(after_help = EXAMPLES)]
pub struct LaborArgs {
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
}

/// Runs the agent to its end, with logging to standard error.
pub fn main(args: LaborArgs) -> ExitCode {
    let source = match (&args.bootstrap, args.stdin) {
        (Some(path), _) => Source::File(path.clone()),
        (None, true) => Source::Stdin,
        (None, false) => match std::env::var(document::VARIABLE) {
            Ok(text) => Source::Text(text),
            Err(_) => {
                eprintln!(
                    "labor: no bootstrap document; give --bootstrap FILE or --stdin, or set {}",
                    document::VARIABLE
                );
                return Exit::Usage.into();
            }
        },
    };
    start(&source, args.directory)
}

/// Reads the document, makes a runtime of one thread, and runs the agent.
pub(crate) fn start(source: &Source, directory: Option<PathBuf>) -> ExitCode {
    log_to_stderr();
    let bootstrap = match source.read() {
        Ok(bootstrap) => bootstrap,
        Err(error) => {
            eprintln!("labor: {error}");
            return Exit::Bootstrap.into();
        }
    };
    if let Err(error) = crate::orphans::adopt() {
        tracing::warn!("orphans of plugins are found by their mark only: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // They unpack, read and write files, one after the other.
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("labor: no runtime: {error}; raise the limits of processes and open files");
            return Exit::Usage.into();
        }
    };
    let exit = runtime.block_on(run(AgentConfig { bootstrap, directory }));
    // What blocks in the background must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}

/// Logs to standard error, as `RUST_LOG` says; only warnings without it, and then without the
/// cost of reading filters.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    // Somebody else's logging, in whose process the agent runs, is as good.
    let _ = match std::env::var("RUST_LOG") {
        Ok(filter) => builder.with_env_filter(EnvFilter::new(filter)).try_init(),
        Err(_) => builder.with_max_level(tracing::Level::WARN).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_exit_code() {
        for exit in Exit::ALL {
            let line = format!("{:>4}  {}", exit.code(), exit.meaning());
            assert!(EXAMPLES.contains(&line), "{line:?} is not in the help");
        }
    }
}
