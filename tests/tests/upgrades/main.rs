//! Fleets that change their release while they are called.
#![allow(clippy::unwrap_used)]

mod back_and_forth;
mod bad_releases;
mod bad_shipping;
mod greedy;
mod handover;
mod scene;
mod smooth;
mod tasks;
