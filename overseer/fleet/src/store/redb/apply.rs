//! One transaction, or the end of one lease, done to the tables of an open write transaction.

use ::redb::{ReadableTable, StorageError};
use bytes::Bytes;

use super::tables::{self, State, Tables};
use crate::store::{Change, Compare, Entry, LeaseId, Operation, Revision, Transaction};

/// How a transaction ended inside a group that is not committed yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// Written, at this revision.
    Written(Revision),
    /// The compare of this index did not hold; nothing is written.
    Conflict(usize),
    /// The lease does not run; nothing is written.
    NoLease(LeaseId),
}

/// What a group has done so far.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) state: State,
    /// For watches, in order.
    pub(super) changes: Vec<Change>,
}

/// Checks everything before it writes anything.
pub(super) fn transaction(
    tables: &mut Tables<'_>,
    progress: &mut Progress,
    transaction: &Transaction,
    runs: impl Fn(LeaseId) -> bool,
) -> Result<Applied, ::redb::Error> {
    for (index, compare) in transaction.compares.iter().enumerate() {
        if !holds(tables, compare)? {
            return Ok(Applied::Conflict(index));
        }
    }
    let leases = transaction.operations.iter().filter_map(|o| match o {
        Operation::Put(_, _, lease) => *lease,
        Operation::Delete(_) => None,
    });
    if let Some(lease) = leases.into_iter().find(|l| !runs(*l)) {
        return Ok(Applied::NoLease(lease));
    }
    progress.state.revision += 1;
    for operation in &transaction.operations {
        match operation {
            Operation::Put(key, value, lease) => put(tables, progress, key, value, *lease)?,
            Operation::Delete(key) => delete(tables, progress, key)?,
        }
    }
    Ok(Applied::Written(Revision(progress.state.revision)))
}

/// Removes a lease and its keys; a lease with keys takes one revision.
pub(super) fn end_lease(
    tables: &mut Tables<'_>,
    progress: &mut Progress,
    lease: LeaseId,
) -> Result<(), ::redb::Error> {
    if tables.leases.remove(lease.0)?.is_none() {
        return Ok(());
    }
    let keys = tables
        .lease_keys
        .range((lease.0, "")..)?
        .map(|row| row.map(|(key, _)| (key.value().0, key.value().1.to_owned())))
        .take_while(|row| row.as_ref().map_or(true, |(owner, _)| *owner == lease.0))
        .map(|row| row.map(|(_, key)| key))
        .collect::<Result<Vec<_>, StorageError>>()?;
    if !keys.is_empty() {
        progress.state.revision += 1;
    }
    for key in &keys {
        delete(tables, progress, key)?;
    }
    Ok(())
}

fn holds(tables: &Tables<'_>, compare: &Compare) -> Result<bool, ::redb::Error> {
    let entry = tables.data.get(compare.key())?;
    Ok(match (compare, entry) {
        (Compare::Absent(_), entry) => entry.is_none(),
        (Compare::Present(_), entry) => entry.is_some(),
        (Compare::Unchanged(..), None) => false,
        (Compare::Unchanged(_, at), Some(entry)) => tables::entry_head(entry.value())?.0 == *at,
    })
}

fn put(
    tables: &mut Tables<'_>,
    progress: &mut Progress,
    key: &str,
    value: &Bytes,
    lease: Option<LeaseId>,
) -> Result<(), ::redb::Error> {
    let revision = Revision(progress.state.revision);
    let entry = tables::encode_entry(revision.0, lease, value);
    let old = tables.data.insert(key, entry.as_slice())?;
    let old_lease = old.map(|old| tables::entry_head(old.value())).transpose()?.and_then(|(_, lease)| lease);
    if old_lease != lease {
        if let Some(old) = old_lease {
            tables.lease_keys.remove((old.0, key))?;
        }
        if let Some(new) = lease {
            tables.lease_keys.insert((new.0, key), ())?;
        }
    }
    let entry = Entry { key: key.to_owned(), value: value.clone(), revision, lease };
    progress.changes.push(Change::Put(entry));
    Ok(())
}

fn delete(tables: &mut Tables<'_>, progress: &mut Progress, key: &str) -> Result<(), ::redb::Error> {
    let Some(old) = tables.data.remove(key)? else {
        return Ok(());
    };
    let (_, lease) = tables::entry_head(old.value())?;
    drop(old);
    if let Some(lease) = lease {
        tables.lease_keys.remove((lease.0, key))?;
    }
    progress.changes.push(Change::Deleted(key.to_owned(), Revision(progress.state.revision)));
    Ok(())
}
