//! Generated from `proto/control.proto`.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::all)]

tonic::include_proto!("overseer.control.v1");

/// The proto itself, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.bin"));
