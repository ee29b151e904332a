//! The builder release: build file, job graph, checkout, steps.

pub mod api;
mod artifacts;
pub mod build_file;
pub mod cache_dir;
mod cancel;
mod checkout;
mod children;
pub mod detect;
mod environment;
mod error;
mod git;
pub mod graph;
mod group;
mod locks;
mod mirror;
mod place;
pub mod plan;
mod planning;
mod plugin;
mod processes;
mod repository;
mod running;
mod slot;
mod steps;
mod tail;
mod worktree;

pub use environment::INHERITED;
pub use error::BuildError;
pub use planning::plan;
pub use plugin::{Builder, serve};
pub use running::run;
