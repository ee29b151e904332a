//! The plugin: a counter that says which version it is, and leaves its count to the next one.

use std::sync::atomic::{AtomicU64, Ordering};

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext, export_plugin};

/// Which version a release is; it says so in its environment.
pub const VERSION: &str = "COUNTER_VERSION";

/// Counts.
pub struct Counter {
    methods: Methods<Self>,
    context: StartContext,
    count: AtomicU64,
}

impl Plugin for Counter {
    const CONCURRENCY: u32 = 4;

    fn start(context: &StartContext) -> Result<Self, PluginError> {
        let version = std::env::var(VERSION).unwrap_or_default();
        if version == "broken" {
            return Err(PluginError::failed("this version cannot start"));
        }
        // What the version before has left, where this one's manifest says `handover`.
        let left = context.inherited()?.and_then(|left| String::from_utf8(left).ok());
        let count = left.and_then(|left| left.parse().ok()).unwrap_or(0).into();
        let methods = Methods::new()
            .add("count", |counter: &Self, _: &CallContext, (): ()| {
                Ok(counter.count.fetch_add(1, Ordering::Relaxed) + 1)
            })
            .add("version", move |_: &Self, _: &CallContext, (): ()| Ok(version.clone()));
        Ok(Self { methods, context: context.clone(), count })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.methods.call(self, context, method, payload)
    }

    fn stop(&self) {
        let count = self.count.load(Ordering::Relaxed).to_string();
        if let Err(error) = self.context.leave(count.as_bytes()) {
            eprintln!("the count is lost: {error}");
        }
    }
}

export_plugin!(Counter);
