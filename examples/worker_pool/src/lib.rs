//! The plugin: counts primes in a range.

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext, export_plugin};
use serde::{Deserialize, Serialize};

/// A range of numbers, `from..to`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Range {
    /// First number.
    pub from: u64,
    /// The number after the last.
    pub to: u64,
}

/// Counts the primes of a range with a sieve over it; stops when the call is cancelled.
pub fn count_primes(range: Range, is_cancelled: impl Fn() -> bool) -> Option<u64> {
    let Range { from, to } = range;
    let from = from.max(2);
    if to <= from {
        return Some(0);
    }
    let mut composite = vec![false; (to - from) as usize];
    let mut factor = 2;
    while factor * factor < to {
        if is_cancelled() {
            return None;
        }
        let mut multiple = (from.div_ceil(factor) * factor).max(factor * factor);
        while multiple < to {
            composite[(multiple - from) as usize] = true;
            multiple += factor;
        }
        factor += 1;
    }
    Some(composite.iter().filter(|c| !**c).count() as u64)
}

/// Counts primes.
pub struct Worker {
    methods: Methods<Self>,
}

impl Plugin for Worker {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        let methods = Methods::new().add("count", |_: &Self, context: &CallContext, range: Range| {
            count_primes(range, || context.is_cancelled()).ok_or_else(PluginError::cancelled)
        });
        Ok(Self { methods })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.methods.call(self, context, method, payload)
    }
}

export_plugin!(Worker);
