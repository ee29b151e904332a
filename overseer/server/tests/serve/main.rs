//! What a user of `overseer serve` sees: the real program as server and as client, real labors.
#![allow(clippy::unwrap_used)]

mod api;
mod clock;
mod commands;
mod files;
mod full_disk;
mod lifecycle;
mod mistakes;
#[path = "../shared/ran.rs"]
mod ran;
mod reconcile;
mod reload;
mod restarts;
// The end-to-end tests' own.
#[allow(unreachable_pub, dead_code)]
#[path = "../../../../tests/src/small_disk.rs"]
mod small_disk;
mod stop;
mod stores;
mod tasks;
mod world;
