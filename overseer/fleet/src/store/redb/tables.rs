//! The form of the file: tables, and how entries, changes and the counters are written as bytes.

use ::redb::{ReadOnlyTable, ReadTransaction, Table, TableDefinition, WriteTransaction};
use bytes::Bytes;

use crate::store::{Entry, LeaseId, Revision};

/// Form of the tables below and of what the entries are; a file of a larger one is refused, one of
/// a smaller one is raised by [`super::migrate`].
pub(super) const SCHEMA: u64 = 2;

/// key → revision, lease (0 for none), value.
pub(super) const DATA: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data");
/// `schema` → u64; `state` → [`State`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// lease → time to live in milliseconds.
pub(super) const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
/// Which keys end with a lease.
pub(super) const LEASE_KEYS: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("lease_keys");

const SCHEMA_ROW: &str = "schema";
const STATE_ROW: &str = "state";

/// The counters of a store. Written with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Of the last committed transaction.
    pub(super) revision: u64,
    /// The last lease that was granted.
    pub(super) lease: u64,
    /// Grows with each commit of the file: tells after a failed one whether it took place.
    pub(super) commit: u64,
}

impl State {
    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, field) in bytes.chunks_exact_mut(8).zip([self.revision, self.lease, self.commit]) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Those of schema 1 have the bounds of a log between the lease and the commit.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.chunks_exact(8).map(number).collect::<Option<Vec<_>>>()?;
        match (fields.as_slice(), bytes.len()) {
            ([revision, lease, commit], 24) | ([revision, lease, _, _, _, commit], 48) => {
                Some(Self { revision: *revision, lease: *lease, commit: *commit })
            }
            _ => None,
        }
    }
}

/// All tables, open for writing.
pub(super) struct Tables<'t> {
    pub(super) data: Table<'t, &'static str, &'static [u8]>,
    pub(super) leases: Table<'t, u64, u64>,
    pub(super) lease_keys: Table<'t, (u64, &'static str), ()>,
    meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    /// Makes those that are missing.
    pub(super) fn open(write: &'t WriteTransaction) -> Result<Self, ::redb::Error> {
        Ok(Self {
            data: write.open_table(DATA)?,
            leases: write.open_table(LEASES)?,
            lease_keys: write.open_table(LEASE_KEYS)?,
            meta: write.open_table(META)?,
        })
    }

    pub(super) fn set_schema(&mut self, schema: u64) -> Result<(), ::redb::Error> {
        self.meta.insert(SCHEMA_ROW, schema.to_le_bytes().as_slice())?;
        Ok(())
    }

    pub(super) fn set_state(&mut self, state: State) -> Result<(), ::redb::Error> {
        self.meta.insert(STATE_ROW, state.to_bytes().as_slice())?;
        Ok(())
    }
}

/// The schema that the file was written with, where it is one of ours.
pub(super) fn read_schema(read: &ReadTransaction) -> Result<u64, ::redb::Error> {
    let meta = read.open_table(META)?;
    let schema = meta.get(SCHEMA_ROW)?.and_then(|row| number(row.value()));
    schema.ok_or_else(|| damaged("it holds no schema number"))
}

pub(super) fn read_state(read: &ReadTransaction) -> Result<State, ::redb::Error> {
    let meta = read.open_table(META)?;
    let state = meta.get(STATE_ROW)?.and_then(|row| State::from_bytes(row.value()));
    state.ok_or_else(|| damaged("its counters cannot be read"))
}

pub(super) fn read_data(
    read: &ReadTransaction,
) -> Result<ReadOnlyTable<&'static str, &'static [u8]>, ::redb::Error> {
    Ok(read.open_table(DATA)?)
}

pub(super) fn damaged(reason: &str) -> ::redb::Error {
    ::redb::Error::Corrupted(reason.to_owned())
}

pub(super) fn encode_entry(revision: u64, lease: Option<LeaseId>, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + value.len());
    bytes.extend_from_slice(&revision.to_le_bytes());
    bytes.extend_from_slice(&lease.map_or(0, |l| l.0).to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// Revision and lease of a stored entry.
pub(super) fn entry_head(bytes: &[u8]) -> Result<(Revision, Option<LeaseId>), ::redb::Error> {
    let head = bytes.split_at_checked(16).and_then(|(head, _)| {
        let (revision, lease) = head.split_at(8);
        Some((number(revision)?, number(lease)?))
    });
    let (revision, lease) = head.ok_or_else(|| damaged("an entry is too short"))?;
    Ok((Revision(revision), (lease != 0).then_some(LeaseId(lease))))
}

pub(super) fn decode_entry(key: &str, bytes: &[u8]) -> Result<Entry, ::redb::Error> {
    let (revision, lease) = entry_head(bytes)?;
    Ok(Entry { key: key.to_owned(), value: Bytes::copy_from_slice(&bytes[16..]), revision, lease })
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
