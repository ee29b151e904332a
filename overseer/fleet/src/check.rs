//! Looks over all that a data directory holds: whether each key is known, each value can be read by
//! its type, and what one refers to is there. Changes no entry.
//!
//! That the file's pages are whole is found when it is opened: every checksum is read then.

mod references;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use self::references::References;
use crate::blobs::{BlobError, Blobs};
use crate::data_dir::DataDir;
use crate::keyspace::{KINDS, Kind};
use crate::store::{Pages, Store, StoreError};

/// Problems that a report holds; further ones are counted.
pub const MAX_PROBLEMS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Entries of each kind, by its name.
    pub counts: BTreeMap<&'static str, u64>,
    /// All entries.
    pub entries: u64,
    /// Blobs that are named by entries and were looked at.
    pub blobs: u64,
    /// The first [`MAX_PROBLEMS`] of them, in order of their keys.
    pub problems: Vec<Problem>,
    /// How many there are in all.
    pub found: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, or the place in the file.
    pub key: String,
    /// Stable: `unknown_key`, `unreadable`, `missing`, `left_over`, `disagrees`, `lease`, `blob`,
    /// `counters`.
    pub kind: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: &'static str,
}

/// Why a check could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

impl CheckError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Blobs(error) => error.code(),
        }
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    fn add(&mut self, problem: Problem) {
        self.found += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Checks a directory. `more` are the kinds of keys that other crates keep in the store; with
/// `deep`, all bytes of the blobs that are named are read. `seen` is told now and then how many
/// entries were looked at.
///
/// # Errors
/// Each [`CheckError`]: what could not be read at all.
pub async fn check(
    data: &DataDir,
    more: &[Kind],
    deep: bool,
    seen: impl Fn(u64),
) -> Result<Report, CheckError> {
    let (store, blobs) = (data.store(), data.task_blobs());
    let mut report = Report::default();
    for kind in KINDS.iter().chain(more) {
        report.counts.insert(kind.name, 0);
    }
    for (key, what) in store.check_tables().await? {
        let kind = if key.is_empty() { "counters" } else { "lease" };
        let key = if key.is_empty() { "(the file's own tables)".to_owned() } else { key };
        report.add(Problem { key, kind, what, help: "restore the store from an export" });
    }
    check_entries(&*store, &*blobs, more, deep, &mut report, seen).await?;
    Ok(report)
}

async fn check_entries(
    store: &dyn Store,
    blobs: &dyn Blobs,
    more: &[Kind],
    deep: bool,
    report: &mut Report,
    seen: impl Fn(u64),
) -> Result<(), CheckError> {
    let mut references = References::new(store, blobs, deep);
    let mut pages = Pages::of(store, "");
    while let Some(entries) = pages.page().await? {
        for entry in &entries {
            report.entries += 1;
            let Some(kind) = Kind::of(&entry.key, more) else {
                report.add(Problem {
                    key: entry.key.clone(),
                    kind: "unknown_key",
                    what: "it is of no kind that this version knows".to_owned(),
                    help: "another version or program has written it; nothing here reads it",
                });
                continue;
            };
            *report.counts.entry(kind.name).or_default() += 1;
            match (kind.read)(entry) {
                Ok(value) => {
                    if let Some(problem) = references.check(entry, value).await? {
                        report.add(problem);
                    }
                }
                Err(reason) => report.add(Problem {
                    key: entry.key.clone(),
                    kind: "unreadable",
                    what: reason,
                    help: "restore the store from an export",
                }),
            }
        }
        seen(report.entries);
    }
    report.blobs = references.blobs_seen();
    Ok(())
}
