//! One transaction, or the end of one lease, done to the tables of an open write transaction.

use ::redb::{ReadableTable, StorageError};

use super::tables::{self, State, Tables};
use crate::store::{Compare, LeaseId, Operation, Revision, Transaction};

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

/// How much of the log is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    pub(super) changes: u64,
    pub(super) bytes: u64,
}

/// Checks everything before it writes anything.
pub(super) fn transaction(
    tables: &mut Tables<'_>,
    state: &mut State,
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
    state.revision += 1;
    for (index, operation) in transaction.operations.iter().enumerate() {
        match operation {
            Operation::Put(key, value, lease) => put(tables, state, index, key, value, *lease)?,
            Operation::Delete(key) => delete(tables, state, index, key)?,
        }
    }
    Ok(Applied::Written(Revision(state.revision)))
}

/// Removes a lease and its keys; a lease with keys takes one revision.
pub(super) fn end_lease(
    tables: &mut Tables<'_>,
    state: &mut State,
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
        state.revision += 1;
    }
    for (index, key) in keys.iter().enumerate() {
        delete(tables, state, index, key)?;
    }
    Ok(())
}

/// Drops the oldest revisions of the log when it is a quarter over its bounds, so that not every
/// commit touches both of its ends.
pub(super) fn compact(
    tables: &mut Tables<'_>,
    state: &mut State,
    bounds: LogBounds,
) -> Result<(), ::redb::Error> {
    let over = |have: u64, bound: u64| have > bound.saturating_add(bound / 4);
    if !over(state.log_changes, bounds.changes) && !over(state.log_bytes, bounds.bytes) {
        return Ok(());
    }
    loop {
        let first = tables.log.first()?.map(|(key, value)| (key.value().0, value.value().len() as u64));
        let Some((revision, bytes)) = first else {
            break;
        };
        // A revision goes as a whole: a watch never sees a part of a transaction.
        let bounded = state.log_changes <= bounds.changes && state.log_bytes <= bounds.bytes;
        if bounded && revision > state.compacted {
            break;
        }
        tables.log.pop_first()?;
        state.compacted = revision;
        state.log_changes = state.log_changes.saturating_sub(1);
        state.log_bytes = state.log_bytes.saturating_sub(bytes);
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
    state: &mut State,
    index: usize,
    key: &str,
    value: &[u8],
    lease: Option<LeaseId>,
) -> Result<(), ::redb::Error> {
    let entry = tables::encode_entry(state.revision, lease, value);
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
    log(tables, state, index, key, Some(&entry))
}

fn delete(tables: &mut Tables<'_>, state: &mut State, index: usize, key: &str) -> Result<(), ::redb::Error> {
    let Some(old) = tables.data.remove(key)? else {
        return Ok(());
    };
    let (_, lease) = tables::entry_head(old.value())?;
    drop(old);
    if let Some(lease) = lease {
        tables.lease_keys.remove((lease.0, key))?;
    }
    log(tables, state, index, key, None)
}

fn log(
    tables: &mut Tables<'_>,
    state: &mut State,
    index: usize,
    key: &str,
    entry: Option<&[u8]>,
) -> Result<(), ::redb::Error> {
    let change = tables::encode_change(key, entry);
    state.log_changes += 1;
    state.log_bytes += change.len() as u64;
    tables.log.insert((state.revision, index as u32), change.as_slice())?;
    Ok(())
}
