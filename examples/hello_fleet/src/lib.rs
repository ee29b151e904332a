//! The plugin: what the labors run.

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext, export_plugin};

/// Greets.
pub struct Hello {
    methods: Methods<Self>,
}

impl Plugin for Hello {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        let methods = Methods::new().add("greet", |_: &Self, context: &CallContext, name: String| {
            context.event("greeted", &name);
            Ok(format!("Hello, {name}! This is process {}.", std::process::id()))
        });
        Ok(Self { methods })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.methods.call(self, context, method, payload)
    }
}

export_plugin!(Hello);
