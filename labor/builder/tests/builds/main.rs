//! Builds of real repositories with real tools.
#![allow(clippy::unwrap_used)]

mod caches;
mod checkouts;
mod harness;
mod places;
mod plans;
mod runs;
mod urls;
