//! Networks that part a fleet, with real packets: no node outlives its lease, no call and no task is
//! answered twice, and what is healed is whole.
#![allow(clippy::unwrap_used)]

mod apart;
mod bad_lines;
mod left;
mod scene;
