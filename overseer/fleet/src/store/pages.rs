//! All entries under a prefix, however many there are.

use super::{Entry, Store, StoreError};

/// Entries that are read at once.
const PAGE: usize = 256;

/// Reads the entries whose key starts with a prefix, in order of key and one page at a time. Each page
/// is read when it is asked for: what is written meanwhile may be there or not.
pub struct Pages<'a> {
    store: &'a dyn Store,
    prefix: &'a str,
    after: Option<String>,
}

impl<'a> Pages<'a> {
    /// From the first entry on.
    pub fn of(store: &'a dyn Store, prefix: &'a str) -> Self {
        Self { store, prefix, after: None }
    }

    /// The next entries; none is left when there are none.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn page(&mut self) -> Result<Option<Vec<Entry>>, StoreError> {
        let (entries, _) = self.store.range(self.prefix, self.after.as_deref(), PAGE).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        self.after = Some(last.key.clone());
        Ok(Some(entries))
    }
}
