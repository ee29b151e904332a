//! Fleets that change their release while they are called.

mod back_and_forth;
mod bad_releases;
mod handover;
mod scene;
mod smooth;
