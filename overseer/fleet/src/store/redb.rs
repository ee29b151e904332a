//! The embedded store: one file, read in place, changed by one thread.
//!
//! A commit waits for the disk once for all transactions that were waiting with it. Reads are
//! made on the caller's thread: a key costs microseconds while its pages are in the cache or in
//! the page cache of the system; long ranges go to a blocking thread.

mod apply;
mod check;
mod file;
mod leases;
mod log;
mod migrate;
mod queue;
mod tables;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ::redb::{Database, ReadTransaction, ReadableDatabase};
use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use self::file::Place;
use self::leases::Leases;
use self::log::{Log, LogBounds};
use self::queue::{Queue, Request};
use self::writer::Writer;
use crate::condition::Condition;
use crate::metrics::{StoreMetrics, StoreNow};
use crate::store::{
    Change, Clock, Entry, LeaseId, MonotonicClock, Outcome, Revision, Store, StoreError, Transaction,
};

/// Changes that a watch may lag behind, at least, unless they are large.
const LOG_CHANGES: u64 = 4096;
/// Bytes of changes that are kept in memory for watches.
const LOG_BYTES: u64 = 4 << 20;
/// Ranges of more entries than this are read on a blocking thread.
const INLINE_RANGE: usize = 128;

/// What an acknowledged transaction survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The loss of power: each commit waits for the disk.
    Fsync,
    /// The end of the process, even by `kill -9`, but no loss of power: for what is thrown away
    /// with the process, such as the store of one build.
    Ephemeral,
}

/// The newest schema that this build knows.
pub(crate) fn newest_schema() -> u64 {
    tables::SCHEMA
}

/// How a store is opened.
pub struct Options {
    /// What an acknowledged transaction survives.
    pub durability: Durability,
    /// Time that leases are measured with.
    pub clock: Arc<dyn Clock>,
    /// Most bytes of pages in memory.
    pub cache_bytes: usize,
    /// Changes that a watch may lag behind before it is told `Compacted`, at least.
    pub log_changes: u64,
    /// Bytes of such changes that are kept.
    pub log_bytes: u64,
    /// Who is told when the store cannot be written, and when it can be again.
    pub condition: Arc<Condition>,
    /// Whether a store of an older schema is raised to ours. If not, it is opened as it is, to be
    /// looked at and not to be changed.
    pub migrate: bool,
}

impl Options {
    /// 4 MiB of cache, 4096 changes or 4 MiB of them.
    pub fn new(durability: Durability) -> Self {
        Self {
            durability,
            clock: Arc::new(MonotonicClock::default()),
            cache_bytes: 4 << 20,
            log_changes: LOG_CHANGES,
            log_bytes: LOG_BYTES,
            condition: Arc::default(),
            migrate: true,
        }
    }
}

/// A [`Store`] in one file of mode 0600. One process may have it open. Dropping it finishes
/// what waits, which takes up to one commit.
pub struct RedbStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    writer: Option<JoinHandle<()>>,
    metrics: Arc<StoreMetrics>,
}

/// What readers, watches and the writer share.
struct Shared {
    place: Place,
    /// The error is what to answer while the file is closed after a fault.
    database: RwLock<Result<Database, StoreError>>,
    /// What watches read.
    log: RwLock<Log>,
    /// The last revision; nothing once the store is closed.
    published: tokio::sync::watch::Sender<Option<u64>>,
}

impl RedbStore {
    /// Opens the file, or makes it and its directory (modes 0600 and 0700).
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NotWritable`], [`StoreError::Damaged`],
    /// [`StoreError::NewerSchema`].
    pub fn open(path: impl AsRef<Path>, durability: Durability) -> Result<Self, StoreError> {
        Self::open_with(path, Options::new(durability))
    }

    /// As [`RedbStore::open`], with all choices.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let path = std::path::absolute(path.as_ref()).map_err(|error| StoreError::NotWritable {
            path: path.as_ref().display().to_string(),
            reason: error.to_string(),
        })?;
        Self::start(
            Place {
                path,
                durability: options.durability,
                cache_bytes: options.cache_bytes,
                migrations: migrate::MIGRATIONS,
                migrate: options.migrate,
                #[cfg(test)]
                faults: Arc::default(),
            },
            options,
        )
    }

    /// The schema that the store is of, and the newest one that this build knows.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn schema(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.shared.read(tables::read_schema)?, tables::SCHEMA))
    }

    /// What was counted, and what waits.
    pub(crate) fn metrics(&self) -> StoreNow<'_> {
        let (waiting, bytes) = self.queue.waiting();
        StoreNow { metrics: &self.metrics, waiting, bytes }
    }

    /// Lets the store look at its clock now. Needed only with a clock that jumps.
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// All entries in order, of one moment, also while others write. Blocks for as long as it takes.
    /// An error of `each` ends it and is the inner result.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) fn each_entry<E>(
        &self,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        self.shared.read(|read| {
            for row in tables::read_data(read)?.range::<&str>(..)? {
                let (key, value) = row?;
                if let Err(error) = each(tables::decode_entry(key.value(), value.value())?) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })
    }

    /// Says that the entries are of that schema, as those of an import may be.
    pub(crate) fn declare_schema(&self, schema: u64) -> Result<(), StoreError> {
        let declare = |database: &Database| {
            let write = database.begin_write()?;
            let mut tables = tables::Tables::open(&write)?;
            tables.set_schema(schema)?;
            drop(tables);
            write.commit()?;
            Ok(())
        };
        let database = self.shared.database.read();
        let database = database.as_ref().map_err(StoreError::clone)?;
        declare(database).map_err(|error: ::redb::Error| self.shared.place.fault(error))
    }

    /// Whether the file's own tables agree: for each that does not, the key (empty: the counters)
    /// and what is wrong. Reads the whole file.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn check_tables(&self) -> Result<Vec<(String, String)>, StoreError> {
        let shared = self.shared.clone();
        let checked = tokio::task::spawn_blocking(move || shared.read(check::tables));
        checked.await.unwrap_or(Err(StoreError::Closed))
    }

    fn start(place: Place, options: Options) -> Result<Self, StoreError> {
        let opened = place.open()?;
        let leases = read_leases(&opened.database, options.clock.now()).map_err(|e| place.fault(e))?;
        let bounds = LogBounds { changes: options.log_changes, bytes: options.log_bytes };
        let shared = Arc::new(Shared {
            place,
            log: RwLock::new(Log::behind(Revision(opened.state.revision), bounds)),
            database: RwLock::new(Ok(opened.database)),
            published: tokio::sync::watch::Sender::new(Some(opened.state.revision)),
        });
        let (queue, metrics) = (Arc::new(Queue::new()), Arc::<StoreMetrics>::default());
        let writer = Writer {
            shared: shared.clone(),
            queue: queue.clone(),
            clock: options.clock.clone(),
            state: opened.state,
            leases,
            condition: options.condition,
            troubled: false,
            metrics: metrics.clone(),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run()).map_err(
            |error| StoreError::NotWritable {
                path: shared.place.name(),
                reason: format!("no thread can be started: {error}"),
            },
        )?;
        Ok(Self { shared, queue, clock: options.clock, writer: Some(thread), metrics })
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").field("path", &self.shared.place.path).finish_non_exhaustive()
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.queue.close();
        if self.writer.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = self.shared.place.name(), "the store's writer panicked");
        }
        let database = std::mem::replace(&mut *self.shared.database.write(), Err(StoreError::Closed));
        if let Ok(Err(error)) = database.map(Database::close) {
            tracing::warn!(%error, path = self.shared.place.name(), "the store was not closed well");
        }
        self.shared.published.send_replace(None);
    }
}

impl Shared {
    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, ::redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database.read();
        let database = database.as_ref().map_err(StoreError::clone)?;
        let result = database.begin_read().map_err(Into::into).and_then(|transaction| read(&transaction));
        result.map_err(|error| self.place.fault(error))
    }

    fn publish(&self, revision: u64) {
        self.published.send_replace(Some(revision));
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Revision), StoreError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.read(|read| {
            let mut entries = Vec::new();
            for row in tables::read_data(read)?.range::<&str>((start, Bound::Unbounded))?.take(limit) {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                entries.push(tables::decode_entry(key.value(), value.value())?);
            }
            Ok((entries, Revision(tables::read_state(read)?.revision)))
        })
    }
}

fn read_leases(database: &Database, now: Duration) -> Result<Leases, ::redb::Error> {
    let read = database.begin_read()?;
    let mut leases = Leases::default();
    for row in read.open_table(tables::LEASES)?.range::<u64>(..)? {
        let (lease, ttl) = row?;
        leases.start(LeaseId(lease.value()), Duration::from_millis(ttl.value()), now);
    }
    Ok(leases)
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.shared.read(|read| {
            let data = tables::read_data(read)?;
            data.get(key)?.map(|value| tables::decode_entry(key, value.value())).transpose()
        })
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Revision), StoreError> {
        if limit <= INLINE_RANGE {
            return self.shared.range(prefix, after, limit);
        }
        let (shared, prefix, after) = (self.shared.clone(), prefix.to_owned(), after.map(str::to_owned));
        let range = tokio::task::spawn_blocking(move || shared.range(&prefix, after.as_deref(), limit));
        range.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn transact(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.check()?;
        self.queue.ask(|answer| Request::Transact(transaction, answer)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<mpsc::Receiver<Change>, StoreError> {
        self.shared.read(tables::read_state)?;
        let (sender, receiver) = mpsc::channel(watch::WATCH_CAPACITY);
        tokio::spawn(watch::run(self.shared.clone(), prefix.to_owned(), from, sender));
        Ok(receiver)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.queue.ask(|answer| Request::Grant(ttl, answer)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let at = self.clock.now();
        self.queue.ask(|answer| Request::KeepAlive(lease, at, answer)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.queue.ask(|answer| Request::Revoke(lease, answer)).await
    }
}
