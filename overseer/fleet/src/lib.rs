//! A supervisor for machines: `start_child` for nodes.
//!
//! Erlang's Supervisor starts and watches processes; this crate does it for nodes. A [`Fleet`]
//! starts nodes through an [`Adapter`], lets the empty nodes pair with it over mutual TLS, ships
//! them the [`Release`] that they should run, watches them, and replaces what dies.
//!
//! ```no_run
//! use overseer::{Fleet, Release, local::Local};
//!
//! fn main() -> Result<(), overseer::MainError> {
//!     overseer::run(async {
//!         let release = Release::plugin_beside_program("my_plugin", "1.0.0")?;
//!         let fleet = Fleet::quiet().adapter(Local::new()).release(release).start().await?;
//!         let labor = fleet.start_child().await?;
//!         labor.ready().await?;
//!         let answer: String = labor.call("greet", "world").await?;
//!         println!("{answer}");
//!         fleet.stop().await;
//!         Ok(())
//!     })
//! }
//! ```

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub mod accept;
pub mod authority;
pub mod blobs;
mod cache_directory;
pub mod call;
pub mod callbacks;
pub mod check;
pub mod claims;
pub mod clock;
pub mod condition;
pub mod control_plane;
pub mod core;
pub mod data_dir;
pub mod door;
pub mod export;
pub mod fleet;
mod gateway;
pub mod history;
pub mod keyspace;
pub mod labor;
pub mod logs;
mod mailbox;
pub mod metrics;
mod pace;
mod payload;
mod random;
pub mod records;
pub mod release;
mod session;
pub mod store;
mod sweep;
pub mod tasks;
pub mod telemetry;
pub mod trace;

mod init;

pub use async_trait::async_trait;
pub use cache_directory::{cache_directory, labor_cache};
pub use call::{CallError, CallOptions};
pub use callbacks::{BoxError, FleetEvent, Overseer, Quiet};
pub use control_plane::ControlPlane;
pub use core::{
    AtCapacity, Backoff, Deadlines, Escalation, Requeue, Restart, TaskCount, UpgradeOptions, UpgradeStage,
    UpgradeStatus, WhatNext,
};
pub use fleet::{
    Count, Fleet, FleetBuilder, FleetHandle, Invitation, InviteError, NotUpgraded, UpgradeError, Upgrading,
};
pub use init::{MainError, init, run};
pub use labor::{Labor, Status};
pub use overseer_adapter as adapter;
pub use overseer_adapter::Adapter;
#[cfg(feature = "local")]
pub use overseer_adapter_local as local;
pub use overseer_plugin::record::{Body, Record};
pub use overseer_protocol::{
    Attempt, BootPhase, CallErrorCode, Cause, Facts, FleetName, Generation, HostId, Isolation,
    IsolationError, LaborId, LaborState, LogStream, ReleaseCache, ReleaseId, Resources, RunAs, TaskId,
};
pub use release::Release;
pub use tasks::{Retry, RetryCause, SubmitError, Task, TaskError, TaskFailure, TaskOptions, TaskState};
