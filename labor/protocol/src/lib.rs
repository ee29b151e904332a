//! What an Overseer and its labors say to each other.
//!
//! The protos and their generated code ([`proto`]), and the types that both sides speak:
//! ids, causes, facts, resources, log streams, the bootstrap document. No IO here.

mod bootstrap;
mod call_error;
mod cause;
mod codec;
mod error_text;
mod facts;
mod id;
mod identity;
mod isolation;
mod join_token;
mod log_stream;
mod release_cache;
mod resources;
mod secret;
mod state;
mod trace;
mod version;

pub use bootstrap::{Bootstrap, BootstrapError, Endpoint, MAX_BOOTSTRAP_BYTES, OnLeaseLost, owner_name};
pub use call_error::CallErrorCode;
pub use cause::{BootPhase, Cause};
pub use codec::{Codec, Encoder};
pub use error_text::error_text;
pub use facts::Facts;
pub use id::{Attempt, FleetName, Generation, HostId, IdError, LaborId, ReleaseId, SessionId, TaskId};
pub use identity::{Claim, Identity, IdentityError};
pub use isolation::{Isolation, IsolationError, RunAs};
pub use join_token::{JOIN_TOKEN_PREFIX, JoinToken, JoinTokenError, MAX_JOIN_TOKEN_BYTES};
pub use log_stream::LogStream;
pub use release_cache::ReleaseCache;
pub use resources::{Amount, AmountError, Resources};
pub use secret::Secret;
pub use state::LaborState;
pub use trace::{SpanId, TraceContext, TraceId};
pub use version::{PROTOCOL, Versions};

/// Generated from `proto/overseer.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("overseer.v1");
}

/// Payloads up to this many bytes travel inside a call or its result; larger ones over the
/// bulk connection.
pub const INLINE_PAYLOAD: usize = 256 * 1024;
/// Largest payload or result of a call, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024 * 1024;
/// Bytes of data in one message of a bulk stream.
pub const PIECE: usize = 256 * 1024;
/// Largest message that either side decodes, in bytes: a batch of inline payloads.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Certificates are good from so much before they are made: clocks of nodes may be behind, and that
/// of the Overseer may be set back.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
