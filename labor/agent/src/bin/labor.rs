//! The agent as a program of its own.

use std::process::ExitCode;

use clap::Parser;
use overseer_labor::LaborArgs;

/// The agent of a node.
#[derive(Parser)]
#[command(name = "labor", version)]
struct Labor {
    #[command(flatten)]
    args: LaborArgs,
}

fn main() -> ExitCode {
    match overseer_labor::reexec() {
        Some(exit) => exit,
        None => overseer_labor::main(Labor::parse().args),
    }
}
