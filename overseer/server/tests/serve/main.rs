//! What a user of `overseer serve` sees: the real program as server and as client, real labors.
#![allow(clippy::unwrap_used)]

mod access;
mod api;
mod audit;
mod authority;
mod clock;
mod commands;
mod deaf;
mod fetched;
mod files;
mod full_disk;
mod joins;
mod lifecycle;
mod mistakes;
mod quick_start;
#[path = "../shared/ran.rs"]
mod ran;
mod reconcile;
mod reload;
mod remote;
mod restarts;
// The end-to-end tests' own.
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../tests/src/small_disk.rs"]
mod small_disk;
mod stop;
mod stores;
mod strangers;
mod taken_back;
mod tasks;
mod unserved;
mod upgrade;
mod world;
