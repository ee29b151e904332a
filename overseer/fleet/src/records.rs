//! What the store knows of each labor: written before the adapter is asked for a node, and read
//! back by the server that comes after this one.

use std::sync::Arc;

use overseer_protocol::{Cause, FleetName, Generation, LaborId, LaborState};
use serde::{Deserialize, Serialize};

use crate::claims::{Claims, NewClaim};
use crate::core::Life;
use crate::keyspace::Value;
use crate::store::{
    Compare, Entry, MAX_OPERATIONS, Operation, Outcome, Pages, Revision, Store, StoreError, Transaction,
};

/// A labor as it is stored: JSON under `labors/FLEET/LABOR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaborRecord {
    /// Its fleet.
    pub fleet: FleetName,
    /// The labor.
    pub labor: LaborId,
    /// Its life.
    pub generation: Generation,
    /// Name of the adapter that was asked for its node.
    pub adapter: String,
    /// Where it stands.
    pub state: LaborState,
    /// The provider's name of its node, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Nothing follows this life.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unwanted: bool,
    /// Its machine was invited, and no adapter has it: until when it might join, in milliseconds
    /// since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited: Option<u64>,
    /// Why it ended, or its last life did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Milliseconds since the epoch.
    pub updated_ms: u64,
}

/// A record as it was read, with what a later change must compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: LaborRecord,
    /// Of its last change.
    pub revision: Revision,
}

/// A labor that is wanted: its record and its claim are stored together.
#[derive(Debug)]
pub struct Intent {
    /// As it will be stored.
    pub record: LaborRecord,
    /// The record that this one follows; none for a new labor.
    pub follows: Option<Revision>,
    /// The claim of this life.
    pub claim: NewClaim,
}

/// Why a record was not written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else changed it.
    #[error("the record of labor {0} was changed by another; read it again")]
    Changed(LaborId),
    /// It is not there.
    #[error("there is no record of labor {0}; it was removed")]
    Missing(LaborId),
    /// What is stored is no record.
    #[error(
        "`{key}` in the store cannot be read: {reason}; restore the store from an export, or remove the key"
    )]
    Unreadable {
        /// The key.
        key: String,
        /// What was found.
        reason: String,
    },
}

impl RecordError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Changed(_) => "record.changed",
            Self::Missing(_) => "record.missing",
            Self::Unreadable { .. } => "record.unreadable",
        }
    }
}

/// Before the keys of all records.
const LABORS: &str = "labors/";
/// A record and a claim, and the compare of each.
const OPERATIONS_OF_AN_INTENT: usize = 3;

impl LaborRecord {
    /// Its life.
    pub fn life(&self) -> Life {
        Life { labor: self.labor, generation: self.generation }
    }

    /// Where it is stored.
    pub fn key(&self) -> String {
        key(&self.fleet, self.labor)
    }

    /// Sets it, in a transaction of the caller's.
    pub fn put(&self) -> Operation {
        // Our own types are always JSON.
        Operation::Put(self.key(), serde_json::to_vec(self).unwrap_or_default().into(), None)
    }
}

/// The labors of all fleets of a store.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    /// Records of this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Stores intents, as many as fit in each transaction. What is stored when it fails are
    /// whole intents of a beginning of the list.
    ///
    /// # Errors
    /// [`RecordError::Changed`] when a record is not the one that it follows.
    pub async fn write_intents(&self, intents: Vec<Intent>) -> Result<Vec<Stored>, RecordError> {
        let mut stored = Vec::with_capacity(intents.len());
        let mut intents = intents.into_iter().peekable();
        while intents.peek().is_some() {
            let mut transaction = Transaction::new();
            let mut records = Vec::new();
            for intent in intents.by_ref().take(MAX_OPERATIONS / OPERATIONS_OF_AN_INTENT) {
                transaction.compares.push(compare(&intent.record, intent.follows));
                transaction.operations.extend([intent.record.put(), intent.claim.operation]);
                records.push(intent.record);
            }
            match self.store.transact(transaction).await? {
                Outcome::Committed(revision) => {
                    stored.extend(records.into_iter().map(|record| Stored { record, revision }));
                }
                Outcome::Conflict(index) => return Err(RecordError::Changed(records[index].labor)),
            }
        }
        Ok(stored)
    }

    /// Changes a record that was read or written at `follows`.
    ///
    /// # Errors
    /// [`RecordError::Changed`] when it is not the one any more.
    pub async fn update(&self, record: LaborRecord, follows: Revision) -> Result<Stored, RecordError> {
        let transaction =
            Transaction { compares: vec![compare(&record, Some(follows))], operations: vec![record.put()] };
        match self.store.transact(transaction).await? {
            Outcome::Committed(revision) => Ok(Stored { record, revision }),
            Outcome::Conflict(_) => Err(RecordError::Changed(record.labor)),
        }
    }

    /// One record.
    ///
    /// # Errors
    /// [`RecordError::Missing`], [`RecordError::Unreadable`], [`RecordError::Store`].
    pub async fn get(&self, fleet: &FleetName, labor: LaborId) -> Result<Stored, RecordError> {
        let entry = self.store.get(&key(fleet, labor)).await?;
        parse(&entry.ok_or(RecordError::Missing(labor))?)
    }

    /// Up to `limit` records of a fleet, in order of labor, after `after`.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`], [`RecordError::Store`].
    pub async fn list(
        &self,
        fleet: &FleetName,
        after: Option<LaborId>,
        limit: usize,
    ) -> Result<Vec<Stored>, RecordError> {
        let after = after.map(|labor| key(fleet, labor));
        let (entries, _) = self.store.range(&prefix(fleet), after.as_deref(), limit).await?;
        entries.iter().map(parse).collect()
    }

    /// What `read` takes of each record of a fleet, or of all fleets, in order of fleet and labor.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`], [`RecordError::Store`].
    pub(crate) async fn all<T>(
        &self,
        fleet: Option<&FleetName>,
        read: impl Fn(LaborRecord) -> T,
    ) -> Result<Vec<T>, RecordError> {
        let prefix = fleet.map_or_else(|| LABORS.to_owned(), prefix);
        let (mut all, mut pages) = (Vec::new(), Pages::of(&*self.store, &prefix));
        while let Some(entries) = pages.page().await? {
            for entry in &entries {
                all.push(read(parse(entry)?.record));
            }
        }
        Ok(all)
    }

    /// Removes a record and its claim; fine when they are not there.
    ///
    /// # Errors
    /// [`RecordError::Store`].
    pub async fn remove(&self, fleet: &FleetName, labor: LaborId) -> Result<(), RecordError> {
        let operations = vec![Operation::Delete(key(fleet, labor)), Claims::forget(labor)];
        self.store.transact(Transaction { compares: vec![], operations }).await?;
        Ok(())
    }
}

fn prefix(fleet: &FleetName) -> String {
    format!("labors/{fleet}/")
}

fn key(fleet: &FleetName, labor: LaborId) -> String {
    format!("labors/{fleet}/{labor}")
}

fn compare(record: &LaborRecord, follows: Option<Revision>) -> Compare {
    match follows {
        None => Compare::Absent(record.key()),
        Some(revision) => Compare::Unchanged(record.key(), revision),
    }
}

fn parse(entry: &Entry) -> Result<Stored, RecordError> {
    let unreadable = |reason: String| RecordError::Unreadable { key: entry.key.clone(), reason };
    let record: LaborRecord = serde_json::from_slice(&entry.value).map_err(|e| unreadable(e.to_string()))?;
    if record.key() != entry.key {
        return Err(unreadable(format!("it is the record of `{}`", record.key())));
    }
    Ok(Stored { record, revision: entry.revision })
}

/// Whether what is stored is the record of the labor that its key names.
pub(crate) fn read_stored(entry: &Entry) -> Result<Value, String> {
    match parse(entry) {
        Ok(_) => Ok(Value::Alone),
        Err(RecordError::Unreadable { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

/// Where the record of a labor is, for what refers to it.
pub(crate) fn key_of(fleet: &FleetName, labor: LaborId) -> String {
    key(fleet, labor)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use overseer_adapter::NodeKey;

    use super::*;
    use crate::store::{Durability, RedbStore};

    fn record(fleet: &str, n: u128, generation: u32) -> LaborRecord {
        LaborRecord {
            fleet: fleet.parse().unwrap(),
            labor: LaborId::new(1, n),
            generation: Generation(generation),
            adapter: "local".into(),
            state: LaborState::Requested,
            node: None,
            unwanted: false,
            invited: None,
            cause: None,
            updated_ms: 5,
        }
    }

    fn intent(record: LaborRecord, follows: Option<Revision>) -> Intent {
        let LaborRecord { fleet, labor, generation, .. } = record.clone();
        let claim = Claims::issue(
            &NodeKey { fleet, labor, generation },
            Duration::from_secs(60),
            SystemTime::UNIX_EPOCH,
            [labor.as_u128() as u8; 32],
        );
        Intent { record, follows, claim }
    }

    struct Rig {
        store: Arc<RedbStore>,
        records: Records,
        _directory: tempfile::TempDir,
    }

    fn rig() -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = Arc::new(RedbStore::open(path, Durability::Ephemeral).unwrap());
        Rig { records: Records::new(store.clone()), store, _directory: directory }
    }

    #[tokio::test]
    async fn intents_are_stored_with_their_claims_and_listed_by_page() {
        let Rig { store, records, .. } = &rig();
        let farm: Vec<_> = (0..100).map(|n| intent(record("farm", n, 1), None)).collect();
        let claim = farm[99].claim.claim.clone();
        let stored = records.write_intents(farm).await.unwrap();
        records.write_intents(vec![intent(record("farm-2", 7, 1), None)]).await.unwrap();
        assert_eq!(stored.len(), 100);
        let fleet = "farm".parse().unwrap();
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|s: &Stored| s.record.labor);
            let page = records.list(&fleet, after, 30).await.unwrap();
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, stored);
        let (claims, key) = (Claims::new(store.clone()), crate::authority::KeyPrint::of_some_key());
        claims.admit(&claim, key, SystemTime::UNIX_EPOCH).await.unwrap();
        records.remove(&fleet, LaborId::new(1, 99)).await.unwrap();
        records.remove(&fleet, LaborId::new(1, 99)).await.unwrap();
        assert!(matches!(records.get(&fleet, LaborId::new(1, 99)).await, Err(RecordError::Missing(_))));
        assert_eq!(
            claims.admit(&claim, key, SystemTime::UNIX_EPOCH).await.unwrap_err().code(),
            "claim_unknown"
        );
    }

    #[test]
    fn a_record_without_an_invitation_is_as_it_was_and_one_with_it_is_read_back() {
        let plain = record("farm", 1, 1);
        let Operation::Put(_, value, _) = plain.put() else { unreachable!() };
        assert!(!String::from_utf8(value.to_vec()).unwrap().contains("invited"));
        let invited = LaborRecord { invited: Some(1_700_000_000_123), ..plain };
        let Operation::Put(_, value, _) = invited.put() else { unreachable!() };
        assert_eq!(serde_json::from_slice::<LaborRecord>(&value).unwrap(), invited);
    }

    #[tokio::test]
    async fn two_servers_do_not_overwrite_each_other() {
        let Rig { records, .. } = &rig();
        let first = records.write_intents(vec![intent(record("farm", 1, 1), None)]).await.unwrap().remove(0);
        let again = records.write_intents(vec![intent(record("farm", 1, 1), None)]).await;
        assert!(matches!(again, Err(RecordError::Changed(labor)) if labor == first.record.labor));
        let mut booting = first.record.clone();
        booting.state = LaborState::Booting;
        booting.node = Some("4711".into());
        let second = records.update(booting.clone(), first.revision).await.unwrap();
        let late = records.update(booting.clone(), first.revision).await;
        assert!(matches!(late, Err(RecordError::Changed(_))));
        let old = intent(record("farm", 1, 2), Some(first.revision));
        assert!(matches!(records.write_intents(vec![old]).await, Err(RecordError::Changed(_))));
        let next = intent(record("farm", 1, 2), Some(second.revision));
        records.write_intents(vec![next]).await.unwrap();
        let read = records.get(&booting.fleet, booting.labor).await.unwrap();
        assert_eq!(read.record.generation, Generation(2));
    }

    #[tokio::test]
    async fn what_is_no_record_is_named() {
        let Rig { store, records, .. } = &rig();
        let good = record("farm", 1, 1);
        let other = record("farm", 2, 1);
        let Operation::Put(_, foreign, _) = other.put() else { unreachable!() };
        for value in [&b""[..], b"{}", b"\xff", &foreign] {
            let put = Transaction::new().put(good.key(), value.to_vec());
            store.transact(put).await.unwrap();
            for error in [
                records.get(&good.fleet, good.labor).await.unwrap_err(),
                records.list(&good.fleet, None, 10).await.unwrap_err(),
            ] {
                assert!(error.to_string().contains(&good.key()), "{error}");
                assert!(matches!(error, RecordError::Unreadable { .. }));
            }
        }
    }
}
