//! What a user of `overseer serve` sees: the real program as server and as client, real labors.
#![allow(clippy::unwrap_used)]

mod access;
mod api;
mod audit;
mod authority;
mod commands;
mod deaf;
mod joins;
mod lifecycle;
mod mistakes;
#[path = "../shared/ran.rs"]
mod ran;
mod reconcile;
mod reload;
mod remote;
mod restarts;
mod stop;
mod stores;
mod strangers;
mod tasks;
mod world;
