//! Raises a store to the schema of this build, step by step. Each step is one transaction of the
//! file that also raises the number: a process that ends in the middle of one leaves the schema
//! before it, and the next one goes on from there. A store that was raised is refused by the
//! program that wrote it, so an export is made before the program is replaced.

use ::redb::{Database, ReadableTable, TableDefinition, WriteTransaction};

use super::tables::{self, State, Tables};

/// Every step that there has been, in order. To change the form of what is stored, append one and
/// leave the others as they are.
pub(super) const MIGRATIONS: &[Migration] = &[Migration {
    to: 2,
    what: "changes for watches are kept in memory",
    run: |entries| entries.write.delete_table(LOG_OF_SCHEMA_1).map(|_| ()).map_err(Fault::from),
}];
/// (revision, index in the transaction) → change.
const LOG_OF_SCHEMA_1: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("log");
/// What the first release wrote.
pub(super) const FIRST: u64 = 1;

/// One step, from the schema before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    /// The schema that it makes: one more than the one before it.
    pub(super) to: u64,
    /// What it does, for the log.
    pub(super) what: &'static str,
    /// Does it. Nothing of it is kept when it fails.
    pub(super) run: fn(&mut Entries<'_, '_>) -> Result<(), Fault>,
}

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file.
    File(::redb::Error),
    /// An entry is not what the step expects.
    Entry(String),
}

impl<E: Into<::redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::File(error.into())
    }
}

/// What becomes of an entry.
#[cfg_attr(not(test), allow(dead_code, reason = "no step so far changes entries"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Keep,
    /// It has this key and value, and stays with its lease.
    Become(String, Vec<u8>),
    /// It goes.
    Remove,
}

/// The entries of a store that a step changes.
pub(super) struct Entries<'a, 't> {
    tables: &'a mut Tables<'t>,
    write: &'t WriteTransaction,
    revision: u64,
}

impl Entries<'_, '_> {
    /// Asks for each entry with that prefix what becomes of it. What is made here is not asked for
    /// again. The keys that change are held in memory.
    #[cfg_attr(not(test), allow(dead_code, reason = "no step so far changes entries"))]
    pub(super) fn each(
        &mut self,
        prefix: &str,
        mut fate: impl FnMut(&str, &[u8]) -> Result<Fate, String>,
    ) -> Result<(), Fault> {
        let mut changes = Vec::new();
        for row in self.tables.data.range(prefix..)? {
            let (key, entry) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (_, lease) = tables::entry_head(entry.value())?;
            let told = fate(key.value(), &entry.value()[16..]);
            match told.map_err(|why| Fault::Entry(format!("`{}`: {why}", key.value())))? {
                Fate::Keep => {}
                changed => changes.push((key.value().to_owned(), lease, changed)),
            }
        }
        // First all that goes: what comes may have a key that another one gives up.
        for (key, lease, _) in &changes {
            self.tables.data.remove(key.as_str())?;
            if let Some(lease) = lease {
                self.tables.lease_keys.remove((lease.0, key.as_str()))?;
            }
        }
        for (old, lease, change) in changes {
            let Fate::Become(key, value) = change else { continue };
            let entry = tables::encode_entry(self.revision, lease, &value);
            if self.tables.data.insert(key.as_str(), entry.as_slice())?.is_some() {
                return Err(Fault::Entry(format!("`{old}` would take the place of `{key}`")));
            }
            if let Some(lease) = lease {
                self.tables.lease_keys.insert((lease.0, key.as_str()), ())?;
            }
        }
        Ok(())
    }
}

/// The schema that a list of steps leads to.
pub(super) fn newest(migrations: &[Migration]) -> u64 {
    migrations.last().map_or(FIRST, |last| last.to)
}

/// Does the steps that follow `schema`, each with a transaction of its own.
///
/// # Errors
/// The step that failed; what was done before it is kept.
pub(super) fn run(database: &Database, schema: u64, migrations: &[Migration]) -> Result<(), (u64, Fault)> {
    for step in migrations.iter().filter(|step| step.to > schema) {
        tracing::info!(schema = step.to, "the store is brought to a newer schema: {}", step.what);
        one(database, step).map_err(|fault| (step.to, fault))?;
    }
    Ok(())
}

fn one(database: &Database, step: &Migration) -> Result<(), Fault> {
    use ::redb::ReadableDatabase;
    let state = tables::read_state(&database.begin_read()?)?;
    let write = database.begin_write()?;
    let mut tables = Tables::open(&write)?;
    let revision = state.revision + 1;
    (step.run)(&mut Entries { tables: &mut tables, write: &write, revision })?;
    let state = State { revision, commit: state.commit + 1, ..state };
    tables.set_state(state)?;
    tables.set_schema(step.to)?;
    drop(tables);
    write.commit()?;
    Ok(())
}
