//! A store at whose n-th write the process kills itself, to be put in front of the real one.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overseer::async_trait;
use overseer::store::{Change, Entry, LeaseId, Outcome, Revision, Store, StoreError, Transaction};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

/// The variable that says at which write: as [`KillAt`] is written.
pub const VARIABLE: &str = "KILL_AT_WRITE";

/// When a process kills itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillAt {
    /// The n-th write, from 1, is asked for and not begun.
    Before(u64),
    /// It is stored, and nobody was told.
    After(u64),
}

impl std::fmt::Display for KillAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Before(n) => write!(f, "before:{n}"),
            Self::After(n) => write!(f, "after:{n}"),
        }
    }
}

impl FromStr for KillAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not before:N or after:N");
        let (side, n) = text.split_once(':').ok_or_else(bad)?;
        let n = n.parse().map_err(|_| bad())?;
        match side {
            "before" => Ok(Self::Before(n)),
            "after" => Ok(Self::After(n)),
            _ => Err(bad()),
        }
    }
}

impl KillAt {
    /// What the environment says, if it says anything.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn from_environment() -> Result<Option<Self>, String> {
        std::env::var(VARIABLE).ok().map(|text| text.parse()).transpose()
    }

    /// The layer for [`overseer::control_plane::ControlPlaneBuilder::store_layer`].
    pub fn layer(self) -> impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send + 'static {
        move |store| Arc::new(Deadly { store, at: self, writes: AtomicU64::new(0) })
    }
}

struct Deadly {
    store: Arc<dyn Store>,
    at: KillAt,
    writes: AtomicU64,
}

impl Deadly {
    /// The number of a write that begins.
    fn begin(&self) -> u64 {
        let n = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.at == KillAt::Before(n) {
            die();
        }
        n
    }

    fn end(&self, n: u64) {
        if self.at == KillAt::After(n) {
            die();
        }
    }
}

fn die() -> ! {
    loop {
        // Nothing can keep it from coming; it may take a moment.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[async_trait]
impl Store for Deadly {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Revision), StoreError> {
        self.store.range(prefix, after, limit).await
    }

    async fn transact(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let n = self.begin();
        let outcome = self.store.transact(transaction).await;
        self.end(n);
        outcome
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<mpsc::Receiver<Change>, StoreError> {
        self.store.watch(prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let n = self.begin();
        let granted = self.store.grant(ttl).await;
        self.end(n);
        granted
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let n = self.begin();
        let revoked = self.store.revoke(lease).await;
        self.end(n);
        revoked
    }
}
