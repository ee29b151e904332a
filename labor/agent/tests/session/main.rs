//! A real agent against a scripted Overseer: TLS, claims and certificates are real.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod calls;
mod ends;
mod link;
mod load;
mod logs;
mod node;
mod overseer;
mod services;
mod shipping;
