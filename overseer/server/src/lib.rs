//! The `overseer` program as a library: command line, configuration and wiring, so that tests and
//! benches run just what they were built with.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod api;
mod audit;
mod build;
mod cli;
mod client;
mod config;
mod doctor;
mod exit;
mod failure;
mod labor;
mod opening;
mod otlp;
mod output;
mod release;
mod serve;
mod store;
mod table;

use std::process::ExitCode;

/// The whole program: all that a `main` has to call.
pub fn main() -> ExitCode {
    // First of all: this process may have been started as an agent or a plugin host.
    overseer::init();
    match build::serve_builder() {
        Some(code) => code,
        None => cli::run(),
    }
}
