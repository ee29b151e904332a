//! What the end-to-end tests share. Nothing is imitated: agents, plugin hosts, TLS and sockets
//! are the real ones, and each test proves that nothing of its fleet is left.
// A test says what it expects by panicking.
#![allow(clippy::unwrap_used)]

pub mod allocations;
pub mod cable;
pub mod handed;
pub mod kill_at_write;
pub mod load;
pub mod memory;
pub mod namespaces;
pub mod node;
pub mod own_plane;
pub mod parts;
pub mod peer;
pub mod processes;
pub mod prometheus;
pub mod proxy;
pub mod raw;
pub mod scene;
pub mod seats;
pub mod served;
pub mod simulated;
pub mod simulation;
pub mod small_disk;
pub mod soak;
pub mod steps;
pub mod task_load;
pub mod written;

mod fleet;
mod patience;

pub use fleet::{Built, TestFleet, builder, probe, probe_library};
pub use patience::{PATIENCE, eventually, within};

/// The agent of the tests, as cargo has just built it. A macro, for cargo tells its path only to
/// the tests themselves.
#[macro_export]
macro_rules! labor {
    () => {
        env!("CARGO_BIN_EXE_test_labor")
    };
}

/// A fleet of the probe, with these callbacks or none.
#[macro_export]
macro_rules! probes {
    () => {
        $crate::probes!(overseer::Quiet)
    };
    ($handler:expr) => {
        $crate::builder($handler, overseer::local::Local::with_program($crate::labor!()))
    };
}
