//! What goes wrong, and how often.

use std::collections::BTreeMap;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The server dies right after a write.
    KilledAfterWrite,
    /// The server dies at some other time.
    KilledAnyTime,
    /// A node dies.
    NodeKilled,
    /// The provider takes a node back.
    NodeReclaimed,
    /// A node ends and nobody is told.
    NodeVanished,
    /// A session breaks.
    SessionCut,
    /// Nothing gets from the agent to the server for a while.
    DeafServer,
    /// Nothing gets from the server to the agent for a while.
    DeafAgent,
    /// The adapter refuses a node.
    ProvisionRefused,
    /// The adapter makes a node and its answer is lost.
    ProvisionUnanswered,
    /// The adapter cannot end a node now.
    TerminateRefused,
    /// The adapter's answer to an end is lost.
    TerminateUnanswered,
    /// A notice of the adapter is lost.
    NoticeLost,
    /// A notice of the adapter comes twice, the second time late.
    NoticeDoubled,
    /// The plugin crashes.
    HostCrashed,
    /// The release cannot be loaded.
    LoadFailed,
    /// A task is cancelled.
    Cancelled,
    /// A labor is drained, or ended and a new one started.
    Replaced,
    /// A machine is invited, which joins, or comes too late.
    Invited,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::KilledAfterWrite,
        Self::KilledAnyTime,
        Self::NodeKilled,
        Self::NodeReclaimed,
        Self::NodeVanished,
        Self::SessionCut,
        Self::DeafServer,
        Self::DeafAgent,
        Self::ProvisionRefused,
        Self::ProvisionUnanswered,
        Self::TerminateRefused,
        Self::TerminateUnanswered,
        Self::NoticeLost,
        Self::NoticeDoubled,
        Self::HostCrashed,
        Self::LoadFailed,
        Self::Cancelled,
        Self::Replaced,
        Self::Invited,
    ];
}

/// How often each kind has happened.
pub type Faults = BTreeMap<Kind, u64>;
