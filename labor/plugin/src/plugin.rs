use crate::{CallContext, PluginError, StartContext};

/// What a release of kind `plugin` is: a value that starts once in a process of its own and then
/// answers calls.
///
/// Everything here may block, and is called from threads of the host. Who wants an async runtime
/// brings one: build it in `start`, keep it in the plugin, and `runtime.block_on(...)` in `call`.
/// [`CONCURRENCY`](Self::CONCURRENCY) says how many calls then wait in `block_on` at once;
/// [`CallContext::on_cancel`] is the way to wake such a call.
///
/// A panic in any of these is caught and becomes a typed failure of that one call, or of the
/// start; the process lives on. Aborts, signals and `exit` end the process; the agent reports
/// the cause and starts another.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// How many calls may run at once; 0 counts as 1.
    const CONCURRENCY: u32 = 1;

    /// Makes the plugin, once for each process. The labor is ready when this has returned and
    /// the first [`health`](Self::health) is good.
    ///
    /// # Errors
    /// Any error fails the start with its message.
    fn start(context: &StartContext) -> Result<Self, PluginError>;

    /// Answers one call. [`Methods`](crate::Methods) makes this typed.
    ///
    /// # Errors
    /// Reach the caller as they are.
    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError>;

    /// Takes a call whose caller wants no answer.
    fn cast(&self, context: &CallContext, method: &str, payload: &[u8]) {
        let _ = self.call(context, method, payload);
    }

    /// Says whether the plugin is well; asked now and then, beside the calls that run.
    ///
    /// # Errors
    /// A sentence that says what is wrong; the agent replaces the host.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// Called before the process ends in good order, when no call runs any more: the time to
    /// [leave](StartContext::leave) something to the release that follows.
    fn stop(&self) {}
}
