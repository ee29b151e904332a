use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{CallContext, PluginError, codec};

type Handler<P> = Box<dyn Fn(&P, &CallContext, &[u8]) -> Result<Vec<u8>, PluginError> + Send + Sync>;

/// Typed methods of a plugin by name; payload and result are JSON.
///
/// Built once, in `start` and kept in the plugin, or in a `static` with
/// [`LazyLock`](std::sync::LazyLock):
///
/// ```
/// use std::sync::LazyLock;
/// use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext};
///
/// struct Greeter;
///
/// static METHODS: LazyLock<Methods<Greeter>> = LazyLock::new(|| {
///     Methods::new().add("greet", |_: &Greeter, _: &CallContext, name: String| Ok(format!("hello {name}")))
/// });
///
/// impl Plugin for Greeter {
///     fn start(_: &StartContext) -> Result<Self, PluginError> {
///         Ok(Self)
///     }
///     fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
///         METHODS.call(self, context, method, payload)
///     }
/// }
/// ```
pub struct Methods<P> {
    handlers: BTreeMap<&'static str, Handler<P>>,
}

impl<P> Methods<P> {
    /// No methods yet.
    pub fn new() -> Self {
        Self { handlers: BTreeMap::new() }
    }

    /// With one more method; a second one of the same name takes the place of the first.
    #[must_use]
    pub fn add<In, Out, F>(mut self, name: &'static str, method: F) -> Self
    where
        In: DeserializeOwned,
        Out: Serialize,
        F: Fn(&P, &CallContext, In) -> Result<Out, PluginError> + Send + Sync + 'static,
    {
        self.handlers.insert(
            name,
            Box::new(move |plugin, context, payload| {
                codec::encode(&method(plugin, context, codec::decode(payload)?)?)
            }),
        );
        self
    }

    /// Runs a method.
    ///
    /// # Errors
    /// What the method says; `NoMethod` with the names that there are; `BadPayload`.
    pub fn call(
        &self,
        plugin: &P,
        context: &CallContext,
        method: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, PluginError> {
        match self.handlers.get(method) {
            Some(handler) => handler(plugin, context, payload),
            None => {
                let known: Vec<_> = self.handlers.keys().copied().collect();
                Err(PluginError::no_method(format!(
                    "no method {method:?}; this plugin has: {}",
                    known.join(", ")
                )))
            }
        }
    }

    /// The names of all methods, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.handlers.keys().copied()
    }
}

impl<P> Default for Methods<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> fmt::Debug for Methods<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}
