//! The plugin: a kiln that says how hot it is.

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext, export_plugin};

/// Fires pots.
pub struct Kiln {
    methods: Methods<Self>,
}

impl Plugin for Kiln {
    fn start(context: &StartContext) -> Result<Self, PluginError> {
        context.metric("kiln_celsius", 20.0);
        let methods = Methods::new().add("fire", |_: &Self, context: &CallContext, celsius: f64| {
            // A number goes its own way: it waits for nobody, and the caller need not know of it.
            context.metric("kiln_celsius", celsius);
            context.metric("kiln_pots", 12.0);
            Ok(())
        });
        Ok(Self { methods })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        self.methods.call(self, context, method, payload)
    }
}

export_plugin!(Kiln);
