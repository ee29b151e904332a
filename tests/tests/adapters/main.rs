//! What fleets and adapters have to do with each other: what every adapter must do, and what a
//! fleet does when one does not.
#![allow(clippy::unwrap_used)]

mod contract;
mod faults;
mod found;
mod late;
mod played;
mod reconciling;
