//! What a user of the `overseer` program sees: the real program, real repositories, real labors.
#![allow(clippy::unwrap_used)]

mod builds;
mod disks;
mod docs;
mod doctor;
mod faults;
mod floods;
mod jobs;
mod mistakes;
#[path = "../shared/ran.rs"]
mod ran;
mod releases;
// The end-to-end tests' own.
#[allow(unreachable_pub)]
#[path = "../../../../tests/src/small_disk.rs"]
mod small_disk;
mod stores;
mod world;
