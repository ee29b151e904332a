//! `overseer labor`: the agent.

use std::process::ExitCode;

/// Runs the agent to its end; it has exit codes of its own.
pub(crate) fn run(args: overseer_labor::LaborArgs) -> ExitCode {
    overseer_labor::main(args)
}
