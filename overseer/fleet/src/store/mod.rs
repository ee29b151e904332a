//! What must outlive a process: a small ordered map with transactions, watches and leases,
//! kept within what etcd can do. [`RedbStore`] is the embedded form: one file, no server.
//!
//! # How an acknowledged write survives the loss of power
//!
//! [`Store::transact`] answers after the commit that holds the change, and a commit is: the new
//! pages are written beside the old ones, and a header that names them with their checksums beside
//! the old header; then `fdatasync`. So a file that was cut off anywhere has the old state or the
//! new one, whole: opening it reads every checksum, and falls back to the old header where not all
//! of the new one's pages are there. A new file gets its name only when it is complete, and the
//! directory is synced with it. Everything that waits when a commit begins goes into that
//! commit, so its cost is shared: one writer alone waits for the disk each time, many together make
//! tens of thousands of changes a second (`cargo test --release -p overseer speed -- --ignored
//! --nocapture` measures it here). It holds as far as the disk keeps what it has
//! acknowledged; [`Durability::Ephemeral`] leaves the waits out, for what goes with its process.

mod clock;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod pages;
pub mod redb;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use self::clock::{Clock, MonotonicClock};
pub use self::pages::Pages;
pub use self::redb::{Durability, RedbStore};

/// Most compares and operations together in one transaction.
pub const MAX_OPERATIONS: usize = 128;
/// Most bytes of keys and values in one transaction.
pub const MAX_TRANSACTION_BYTES: usize = 1_500_000;
/// Most bytes of a key.
pub const MAX_KEY_BYTES: usize = 512;

/// A number that grows by one with each committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Of the last change of this key.
    pub revision: Revision,
    /// The lease that the key ends with.
    pub lease: Option<LeaseId>,
}

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there.
    Present(String),
    /// The key was last changed at this revision.
    Unchanged(String, Revision),
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key, with a lease or for good.
    Put(String, Bytes, Option<LeaseId>),
    /// Removes a key, if it is there.
    Delete(String),
}

impl Compare {
    /// The key that is looked at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Unchanged(key, _) => key,
        }
    }
}

impl Operation {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, ..) | Self::Delete(key) => key,
        }
    }
}

/// Compares and, when all hold, operations: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// At most one for each key.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key is not there.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent(key.into()));
        self
    }

    /// Only if the key was last changed at `revision`.
    #[must_use]
    pub fn unchanged(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::Unchanged(key.into(), revision));
        self
    }

    /// Only if the key is there.
    #[must_use]
    pub fn present(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Present(key.into()));
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Put(key.into(), value.into(), None));
        self
    }

    /// Sets a key that ends with a lease.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.operations.push(Operation::Put(key.into(), value.into(), Some(lease)));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Delete(key.into()));
        self
    }

    /// Checks the limits that every store keeps.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::BadKey`] or [`StoreError::Twice`].
    pub fn check(&self) -> Result<(), StoreError> {
        let count = self.compares.len() + self.operations.len();
        let keys = self.compares.iter().map(|c| (c.key(), 0));
        let operations = self.operations.iter().map(|o| match o {
            Operation::Put(k, v, _) => (k.as_str(), v.len()),
            Operation::Delete(k) => (k.as_str(), 0),
        });
        let mut bytes = 0;
        for (key, value) in keys.chain(operations) {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(StoreError::BadKey(key.chars().take(64).collect()));
            }
            bytes += key.len() + value;
        }
        if count > MAX_OPERATIONS || bytes > MAX_TRANSACTION_BYTES {
            return Err(StoreError::TooLarge { count, bytes });
        }
        let mut changed: Vec<&str> = self.operations.iter().map(Operation::key).collect();
        changed.sort_unstable();
        match changed.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => Err(StoreError::Twice(twice[0].to_owned())),
            None => Ok(()),
        }
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All compares held; everything is stored.
    Committed(Revision),
    /// The first compare, by index, that did not hold; nothing is stored.
    Conflict(usize),
}

/// A change, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set.
    Put(Entry),
    /// Removed, at this revision: by a transaction or with its lease.
    Deleted(String, Revision),
    /// Changes up to here are no longer known: read the range anew, then watch from there.
    /// The stream ends with it.
    Compacted(Revision),
}

/// Why a store could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Over [`MAX_OPERATIONS`] or [`MAX_TRANSACTION_BYTES`].
    #[error(
        "a transaction of {count} operations and {bytes} bytes is over the limit of {MAX_OPERATIONS} and {MAX_TRANSACTION_BYTES}; split it"
    )]
    TooLarge {
        /// Compares and operations.
        count: usize,
        /// Keys and values.
        bytes: usize,
    },
    /// Empty or over 512 bytes.
    #[error("{0:?} cannot be a key: 1 to {MAX_KEY_BYTES} bytes")]
    BadKey(String),
    /// One transaction changes one key twice.
    #[error("the transaction changes the key {0:?} twice; keep only the last of them")]
    Twice(String),
    /// No such lease, or it has run out.
    #[error("lease {0:?} is not there or has run out; grant a new one")]
    NoLease(LeaseId),
    /// Another process has it open.
    #[error("{path} is in use by another process; stop that one or use another data directory")]
    InUse {
        /// The file.
        path: String,
    },
    /// The disk is full or read-only, or has failed; nothing was stored, what was stored before
    /// is untouched, and the store goes on by itself once the disk does.
    #[error("{path} cannot be written: {reason}; make room or fix its permissions, then try again")]
    NotWritable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The disk failed in the middle of a commit and could not be read afterwards.
    #[error(
        "{path} failed during a commit: {reason}; it is not known whether the change is stored, so read it again once the disk works"
    )]
    Uncertain {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A newer Overseer has written it.
    #[error(
        "{path} has schema {found}, this Overseer knows up to {known}; use the newer Overseer or another data directory"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// Schema of the file.
        found: u64,
        /// Newest schema of this build.
        known: u64,
    },
    /// An older Overseer has written it, and it could not be raised to our schema.
    #[error(
        "{path} could not be brought to schema {to}: {reason}; it is as it was, so use the Overseer before this one, or restore it from an export"
    )]
    Migration {
        /// The file.
        path: String,
        /// The schema that could not be reached.
        to: u64,
        /// What was found.
        reason: String,
    },
    /// The data cannot be read.
    #[error("{path} is damaged: {reason}; restore it from an export")]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The store has stopped.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "store.too_large",
            Self::BadKey(_) => "store.bad_key",
            Self::Twice(_) => "store.twice",
            Self::NoLease(_) => "store.no_lease",
            Self::InUse { .. } => "store.in_use",
            Self::NotWritable { .. } => "store.not_writable",
            Self::Uncertain { .. } => "store.uncertain",
            Self::NewerSchema { .. } => "store.newer_schema",
            Self::Migration { .. } => "store.migration",
            Self::Damaged { .. } => "store.damaged",
            Self::Closed => "store.closed",
        }
    }
}

/// An ordered map from text to bytes. Methods wait for the disk: call them outside of actors.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key.
    ///
    /// # Errors
    /// Any [`StoreError`].
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Up to `limit` entries whose key starts with `prefix` and is greater than `after`, in
    /// order, and the revision that they were read at.
    ///
    /// # Errors
    /// Any [`StoreError`].
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Revision), StoreError>;

    /// Commits all or nothing. When it returns `Committed`, the change is as durable as the
    /// store was opened for.
    ///
    /// A caller that stops waiting does not take the transaction back.
    ///
    /// # Errors
    /// Any [`StoreError`]; then nothing is stored, but for [`StoreError::Uncertain`].
    async fn transact(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// Changes of keys with `prefix` after revision `from`, in order. Bounded: a reader that
    /// falls behind gets [`Change::Compacted`] and the end of the stream.
    ///
    /// # Errors
    /// Any [`StoreError`].
    async fn watch(&self, prefix: &str, from: Revision) -> Result<mpsc::Receiver<Change>, StoreError>;

    /// A lease that ends after `ttl` unless kept alive; keys put with it end with it.
    ///
    /// # Errors
    /// Any [`StoreError`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time anew.
    ///
    /// # Errors
    /// [`StoreError::NoLease`] once it has run out.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and its keys. Unknown leases are fine.
    ///
    /// # Errors
    /// Any [`StoreError`].
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}
