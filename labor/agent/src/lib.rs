//! The agent: what runs on a labor.
//!
//! It dials in to its Overseer, pairs, fetches the release that it is told to run, runs it in a
//! process of its own, and carries calls, telemetry and logs between the two. Whatever happens to
//! the Overseer, the release or the network, it ends itself rather than outlive its owner.
//!
//! | what | where |
//! |---|---|
//! | how it starts and ends | [`main`], [`run`], [`Exit`] |
//! | a machine that joins by hand | `joining`, [`Tells`] |
//! | the link: dial, join, attach, renew | `connect`, `join`, `session` |
//! | what waits to be sent | `outbox`, `telemetry`, `spool`, `logs` |
//! | calls: admission, deadlines, cancel | `calls` |
//! | a release: fetch, verify, unpack | `load`, `cache`, `bulk` |
//! | what the agents of a host keep of releases | `host_cache` |
//! | the process that runs it | [`host`], `restart` |
//! | what that may be and use | `host::isolation`, `as_user` |
//! | what plugins leave behind | [`marker`], `orphans` |
//! | what ties them together | `agent` |

mod agent;
mod ahead;
mod args;
mod as_user;
mod backoff;
mod bulk;
mod cache;
mod calls;
mod connect;
mod document;
mod exit;
mod facts;
mod files;
pub mod host;
mod host_cache;
mod join;
mod joining;
mod load;
mod logs;
pub mod marker;
mod orphans;
mod outbox;
mod owner;
mod reexec;
mod restart;
mod run;
mod session;
mod signals;
mod spin;
mod spool;
mod telemetry;
mod tells;

pub use args::{LaborArgs, main};
pub use document::{Source, SourceError, VARIABLE};
pub use exit::Exit;
pub use reexec::reexec;
pub use run::{AgentConfig, run};
pub use tells::Tells;
