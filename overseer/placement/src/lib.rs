//! Where work goes. Pure: no IO, no clock, no randomness, so the same question has the same answer.
//!
//! [`plan`] spreads a number of alike units over hosts of which it is known how many more each takes.

mod levels;
mod strategy;

pub use self::strategy::{Candidate, DoesNotFit, Strategy, UnknownStrategy, Utilisation, plan};
