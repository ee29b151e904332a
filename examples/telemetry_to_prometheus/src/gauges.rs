use std::collections::BTreeMap;

use overseer::LaborId;
use overseer::metrics::{Kind, Page};
use parking_lot::Mutex;

/// Metrics of one fleet that are kept; a plugin that makes up names makes nothing grow.
const NAMES: usize = 64;
/// Bytes of a name, at most.
const NAME: usize = 100;

/// The newest number of each labor of a fleet.
type Numbers = BTreeMap<(String, LaborId), f64>;

/// The newest number that each labor has said, by metric.
#[derive(Default)]
pub(crate) struct Gauges {
    kept: Mutex<BTreeMap<String, Numbers>>,
}

impl Gauges {
    /// Keeps a number.
    pub(crate) fn set(&self, fleet: &str, labor: LaborId, name: &str, value: f64) {
        let mut kept = self.kept.lock();
        if name.len() > NAME || (kept.len() >= NAMES && !kept.contains_key(name)) {
            return;
        }
        kept.entry(name.to_owned()).or_default().insert((fleet.to_owned(), labor), value);
    }

    /// Forgets what a labor has said.
    pub(crate) fn forget(&self, gone: LaborId) {
        let mut kept = self.kept.lock();
        kept.values_mut().for_each(|numbers| numbers.retain(|(_, labor), _| *labor != gone));
        kept.retain(|_, numbers| !numbers.is_empty());
    }

    /// Writes them down: with the labor as a label, for there are as many as the fleet may have.
    pub(crate) fn write(&self, page: &mut Page) {
        for (name, numbers) in &*self.kept.lock() {
            let family = page.family(&format!("plugin_{name}"), Kind::Gauge, "What a plugin measured.");
            for ((fleet, labor), value) in numbers {
                family.number(&[("fleet", fleet), ("labor", &labor.to_string())], *value);
            }
        }
    }
}
