use std::sync::LazyLock;

use overseer_plugin::{CallContext, Methods, Plugin, PluginError, StartContext};

use crate::api::{PlanRequest, RunRequest};

static METHODS: LazyLock<Methods<Builder>> = LazyLock::new(|| {
    Methods::new()
        .add("plan", |_: &Builder, context: &CallContext, request: PlanRequest| {
            crate::plan(&request, context).map_err(PluginError::from)
        })
        .add("run", |_: &Builder, context: &CallContext, request: RunRequest| {
            crate::run(&request, context).map_err(PluginError::from)
        })
});

/// The builder release. Its methods are in [`api`](crate::api). A labor runs one job at a time:
/// a job takes all cores of a machine, and jobs run side by side on several labors.
#[derive(Debug)]
pub struct Builder;

impl Plugin for Builder {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        METHODS.call(self, context, method, payload)
    }
}

overseer_plugin::export_plugin!(Builder);

/// Serves the builder as a release of kind `program`: the same code, out of the program that
/// this is linked into. Ends when the agent hangs up.
pub fn serve() -> std::process::ExitCode {
    overseer_plugin::serve::<Builder>()
}
