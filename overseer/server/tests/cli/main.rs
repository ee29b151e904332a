//! What a user of the `overseer` program sees: the real program, real repositories, real labors.
#![allow(clippy::unwrap_used)]

mod builds;
mod docs;
mod doctor;
mod faults;
mod jobs;
mod mistakes;
mod releases;
mod stores;
mod world;
