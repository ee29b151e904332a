use std::future::Future;

use crate::callbacks::BoxError;

/// The first thing that `main` does: where this program was started again as an agent or plugin
/// host by the local adapter, it becomes that, and this does not return.
///
/// Must run before any thread or async runtime is started.
pub fn init() {
    #[cfg(feature = "local")]
    if let Some(code) = overseer_labor::reexec() {
        std::process::exit(number(code));
    }
}

/// An `ExitCode` can be returned from `main` and compared, but not read.
#[cfg(feature = "local")]
fn number(code: std::process::ExitCode) -> i32 {
    (0..=u8::MAX).find(|n| std::process::ExitCode::from(*n) == code).map_or(1, i32::from)
}

/// [`init`], then `main` on a multi-threaded runtime.
///
/// # Errors
/// What `main` returns, or that no runtime could be started.
pub fn run<T>(main: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(main)
}
