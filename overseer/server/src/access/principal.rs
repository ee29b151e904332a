//! Who asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overseer::FleetName;

use super::Role;
use super::rules::Rule;
use super::token::TokenId;

/// Somebody whose word counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Who can reach the unix socket: the user that the server runs as, or root.
    Owner {
        /// The user.
        uid: u32,
    },
    /// Who has a token.
    Token {
        /// Which one.
        id: TokenId,
        /// What it is called.
        name: String,
        /// What it may do.
        role: Role,
        /// The only fleet that it sees.
        fleet: Option<FleetName>,
    },
    /// The server itself, for this reason: `start`, `signal`.
    Server(&'static str),
}

impl Principal {
    /// What they may do.
    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Owner { .. } | Self::Server(_) => Role::Admin,
            Self::Token { role, .. } => *role,
        }
    }

    /// The only fleet that they see; all, if none.
    pub(crate) fn fleet(&self) -> Option<&FleetName> {
        match self {
            Self::Token { fleet, .. } => fleet.as_ref(),
            _ => None,
        }
    }

    /// What kind they are, and who, for the audit log.
    pub(crate) fn named(&self) -> (&'static str, String) {
        match self {
            Self::Owner { uid } => ("user", format!("uid {uid}")),
            Self::Token { id, name, .. } => ("token", format!("token {id} ({name})")),
            Self::Server(why) => ("server", (*why).to_owned()),
        }
    }
}

/// A request's principal, where it comes from and what it asks for; among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    /// An address, or a process at the socket.
    pub(crate) from: Arc<str>,
    pub(crate) rule: &'static Rule,
    /// Whether it is in the audit log.
    recorded: Arc<AtomicBool>,
}

impl Caller {
    pub(super) fn new(principal: Principal, from: String, rule: &'static Rule) -> Self {
        Self { principal: Arc::new(principal), from: from.into(), rule, recorded: Arc::default() }
    }

    /// It is in the audit log.
    pub(crate) fn note_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Whether it is in the audit log.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }
}
