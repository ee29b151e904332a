use std::sync::atomic::{AtomicU64, Ordering};

/// A counter for each of some names that are known from the beginning.
#[derive(Debug)]
pub(crate) struct Counts {
    names: &'static [&'static str],
    values: Box<[AtomicU64]>,
}

impl Counts {
    pub(crate) fn new(names: &'static [&'static str]) -> Self {
        Self { names, values: names.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn add(&self, name: &str) {
        self.add_many(name, 1);
    }

    /// What has no name of its own counts under the last one.
    pub(crate) fn add_many(&self, name: &str, n: u64) {
        let place = self.names.iter().position(|known| *known == name);
        if let Some(value) = self.values.get(place.unwrap_or(self.names.len() - 1)) {
            value.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.names.iter().zip(&self.values).map(|(name, value)| (*name, value.load(Ordering::Relaxed)))
    }
}
