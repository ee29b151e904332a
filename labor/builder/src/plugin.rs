use std::sync::LazyLock;
use std::time::Duration;

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

/// How long jobs may take to end when the builder is to stop; its host waits little longer.
const STOP: Duration = Duration::from_millis(1500);

/// The builder release. Its methods are in [`api`](crate::api). A labor runs one job at a time:
/// a job takes all cores of a machine, and jobs run side by side on several labors.
#[derive(Debug)]
pub struct Builder;

impl Plugin for Builder {
    /// From here on the process is the builder's own: what steps leave behind comes to it.
    fn start(context: &StartContext) -> Result<Self, PluginError> {
        if let Err(error) = crate::children::adopt() {
            // Jobs run all the same; only what hides from them is left for the agent to find.
            context.event("no_orphans", &error.to_string());
        }
        Ok(Self)
    }

    /// Jobs that were cancelled end, with all that they have started.
    fn stop(&self) {
        crate::children::wait_quiet(STOP);
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
