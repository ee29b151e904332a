//! The plugin: does everything that a plugin should not.

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext, export_plugin};

/// Crashes when asked.
pub struct Fragile {
    methods: Methods<Self>,
}

impl Plugin for Fragile {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        let methods = Methods::new()
            .add("hello", |_: &Self, _: &CallContext, (): ()| Ok(std::process::id()))
            .add("panic", |_: &Self, _: &CallContext, (): ()| -> Result<(), PluginError> {
                panic!("as asked")
            })
            .add("abort", |_: &Self, _: &CallContext, (): ()| -> Result<(), PluginError> {
                std::process::abort()
            });
        Ok(Self { methods })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.methods.call(self, context, method, payload)
    }
}

export_plugin!(Fragile);
