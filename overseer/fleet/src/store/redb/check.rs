//! Whether the file's own tables agree with each other: leases, their keys, the counters.

use ::redb::{ReadTransaction, ReadableTable};

use super::tables;

/// What does not agree: a key, and what is wrong.
pub(super) fn tables(read: &ReadTransaction) -> Result<Vec<(String, String)>, ::redb::Error> {
    let mut wrong = Vec::new();
    let state = tables::read_state(read)?;
    let leases = read.open_table(tables::LEASES)?;
    let lease_keys = read.open_table(tables::LEASE_KEYS)?;
    let data = tables::read_data(read)?;
    for row in data.iter()? {
        let (key, value) = row?;
        let (revision, lease) = tables::entry_head(value.value())?;
        if revision.0 > state.revision {
            wrong.push((key.value().to_owned(), format!("its revision {} is yet to come", revision.0)));
        }
        let Some(lease) = lease else { continue };
        if leases.get(lease.0)?.is_none() || lease_keys.get((lease.0, key.value()))?.is_none() {
            wrong.push((key.value().to_owned(), format!("it would not end with its lease {}", lease.0)));
        }
    }
    for row in lease_keys.iter()? {
        let (key, _) = row?;
        let (lease, key) = key.value();
        let own = data.get(key)?.map(|value| tables::entry_head(value.value())).transpose()?;
        if own.and_then(|(_, lease)| lease).map(|lease| lease.0) != Some(lease) {
            wrong.push((key.to_owned(), format!("lease {lease} would end it, and it is not of that lease")));
        }
    }
    Ok(wrong)
}
