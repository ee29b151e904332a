//! What a user of `overseer serve` sees: the real program as server and as client, real labors.
#![allow(clippy::unwrap_used)]

mod api;
mod commands;
mod deaf;
mod lifecycle;
mod mistakes;
#[path = "../shared/ran.rs"]
mod ran;
mod reconcile;
mod reload;
mod restarts;
mod stop;
mod stores;
mod tasks;
mod world;
