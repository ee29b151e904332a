//! The `overseer` program.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod cli;
mod doctor;
mod exit;
mod failure;
mod labor;
mod output;
mod release;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: this process may have been started as an agent or a plugin host.
    overseer::init();
    match build::serve_builder() {
        Some(code) => code,
        None => cli::run(),
    }
}
