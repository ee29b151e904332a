//! Plugin hosts as an agent has them: real processes, a real library.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod calls;
mod confined;
mod ends;
mod harness;
mod output;
mod round_trip;
mod runs;
mod starts;
mod supervised;
