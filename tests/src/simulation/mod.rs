//! The control plane in a world of its own: the pure cores of a fleet and its tasks, a store, an
//! adapter, agents and a network, in virtual time. From one seed follow every delay, every fault
//! and every answer; a server may die after any write, orders and answers come late or never,
//! nodes vanish, clocks differ. What must hold is checked as it happens, and at the end, when all
//! faults are over, that everything has come to its end.
//!
//! The shells are not in it: what they do with an effect is written once more here, as plainly as
//! can be.

mod agent;
mod fault;
mod queue;
mod server;
mod shell;
mod store;
mod world;

pub use fault::{Faults, Kind};
pub use world::{Outcome, run};

use overseer::core::Millis;

/// How long the faults go on.
pub const FAULTY: Millis = 120_000;
/// How long everything may take after that until it has come to its end.
pub const CALM: Millis = 3_600_000;
