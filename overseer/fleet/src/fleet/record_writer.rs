//! Writes the records of labors behind the actor, which waits for no disk.

use std::collections::BTreeMap;
use std::time::Duration;

use overseer_protocol::{Cause, LaborId, LaborState};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::claims::{Claims, millis};
use crate::clock;
use crate::core::Life;
use crate::records::LaborRecord;
use crate::store::{MAX_OPERATIONS, Store, StoreError, Transaction};

/// Labors in one transaction: the end of one deletes its record and its claim.
const LABORS: usize = MAX_OPERATIONS / 2;
/// Until a store that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// The latest record of each labor. Only the newest state of a labor waits to be written, so the
/// number of labors bounds what waits.
pub(crate) struct RecordWriter {
    latest: Mutex<BTreeMap<LaborId, LaborRecord>>,
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// One writer at a time: who has flushed knows that nothing is on its way any more.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    changes: BTreeMap<LaborId, Change>,
    count: u64,
}

#[derive(Clone)]
struct Change {
    /// Tells this change of a labor from the one that follows it.
    number: u64,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Put,
    Delete(LaborRecord),
}

impl Waiting {
    fn add(&mut self, labor: LaborId, kind: Kind) {
        self.count += 1;
        self.changes.insert(labor, Change { number: self.count, kind });
    }
}

impl RecordWriter {
    pub(crate) fn new() -> Self {
        Self {
            latest: Mutex::default(),
            waiting: Mutex::default(),
            changed: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Labors whose newest state is not written yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().changes.len()
    }

    /// Nothing is written before what is returned is dropped.
    pub(crate) async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Takes a record that its intent stores.
    pub(crate) fn seed(&self, record: LaborRecord) {
        self.latest.lock().insert(record.labor, record);
    }

    pub(crate) fn node(&self, labor: LaborId, provider_id: String) {
        self.change(labor, |record| record.node = Some(provider_id));
    }

    pub(crate) fn enter(&self, life: Life, state: LaborState, wanted: bool, cause: Option<Cause>) {
        self.change(life.labor, |record| {
            (record.generation, record.state, record.cause) = (life.generation, state, cause);
            record.unwanted = !wanted;
        });
    }

    fn change(&self, labor: LaborId, change: impl FnOnce(&mut LaborRecord)) {
        if let Some(record) = self.latest.lock().get_mut(&labor) {
            change(record);
            record.updated_ms = millis(clock::now());
            self.waiting.lock().add(labor, Kind::Put);
            self.changed.notify_one();
        }
    }

    pub(crate) fn forget(&self, labor: LaborId) {
        if let Some(record) = self.latest.lock().remove(&labor) {
            self.waiting.lock().add(labor, Kind::Delete(record));
            self.changed.notify_one();
        }
    }

    /// Writes what waits, until nothing does. What could not be written waits on, also when this
    /// future is dropped.
    pub(crate) async fn flush(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        loop {
            let changes: Vec<(LaborId, Change)> = {
                let waiting = self.waiting.lock();
                waiting.changes.iter().take(LABORS).map(|(labor, change)| (*labor, change.clone())).collect()
            };
            if changes.is_empty() {
                return Ok(());
            }
            let mut transaction = Transaction::new();
            for (labor, change) in &changes {
                match &change.kind {
                    Kind::Delete(record) => {
                        transaction = transaction.delete(record.key());
                        transaction.operations.push(Claims::forget(*labor));
                    }
                    Kind::Put => {
                        if let Some(record) = self.latest.lock().get(labor) {
                            transaction.operations.push(record.put());
                        }
                    }
                }
            }
            if !transaction.operations.is_empty() {
                store.transact(transaction).await?;
            }
            let mut waiting = self.waiting.lock();
            for (labor, change) in changes {
                if waiting.changes.get(&labor).is_some_and(|newest| newest.number == change.number) {
                    waiting.changes.remove(&labor);
                }
            }
        }
    }

    /// Writes for as long as the fleet lives.
    pub(crate) async fn run(&self, store: &dyn Store) {
        loop {
            self.changed.notified().await;
            while let Err(error) = self.flush(store).await {
                match error {
                    // The store says so itself, once.
                    StoreError::NotWritable { .. } => tracing::debug!(%error, "labors wait to be stored"),
                    error => tracing::error!(%error, "the state of labors could not be stored; trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use overseer_protocol::Generation;

    use super::*;
    use crate::store::{Durability, RedbStore};

    fn record(n: u128) -> LaborRecord {
        LaborRecord {
            fleet: "farm".parse().unwrap(),
            labor: LaborId::new(1, n),
            generation: Generation::FIRST,
            adapter: "local".into(),
            state: LaborState::Requested,
            node: None,
            unwanted: false,
            invited: None,
            cause: None,
            updated_ms: 5,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_flushed_finds_everything_written_whoever_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = Arc::new(RedbStore::open(path, Durability::Fsync).unwrap());
        let writer = Arc::new(RecordWriter::new());
        let beside = tokio::spawn({
            let (writer, store) = (Arc::clone(&writer), Arc::clone(&store));
            async move { writer.run(&*store).await }
        });
        for n in 0..50 {
            let record = record(n);
            let life = record.life();
            writer.seed(record.clone());
            writer.enter(life, LaborState::Booting, true, None);
            writer.flush(&*store).await.unwrap();
            assert!(store.get(&record.key()).await.unwrap().is_some());
            writer.forget(record.labor);
            // The one beside us has begun to write it.
            tokio::task::yield_now().await;
            writer.flush(&*store).await.unwrap();
            assert!(store.get(&record.key()).await.unwrap().is_none());
        }
        beside.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_is_cut_short_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = Arc::new(RedbStore::open(path, Durability::Fsync).unwrap());
        let writer = RecordWriter::new();
        for n in 0..50 {
            let record = record(n);
            let life = record.life();
            writer.seed(record.clone());
            writer.enter(life, LaborState::Booting, true, None);
            // Polled once: the store has been asked and its answer is not awaited.
            let cut = tokio::time::timeout(Duration::ZERO, writer.flush(&*store)).await;
            drop(cut);
            writer.flush(&*store).await.unwrap();
            let stored = store.get(&record.key()).await.unwrap().unwrap();
            let stored: LaborRecord = serde_json::from_slice(&stored.value).unwrap();
            assert_eq!(stored.state, LaborState::Booting);
        }
    }
}
