use std::fmt;
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

/// Why `main` failed: any error, printed by the runtime in its own words and not as a data
/// structure.
pub struct MainError(BoxError);

impl<E: Into<BoxError>> From<E> for MainError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// What the standard library prints when `main` returns an error.
impl fmt::Debug for MainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&overseer_protocol::error_text(&*self.0))
    }
}

/// [`init`], then `main` on a multi-threaded runtime.
///
/// # Errors
/// What `main` returns, or that no runtime could be started.
pub fn run<T>(main: impl Future<Output = Result<T, BoxError>>) -> Result<T, MainError> {
    init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(main)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_main_is_a_sentence_with_what_is_behind_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("the bolts are loose")]
        struct Loose(#[source] std::fmt::Error);
        let error = MainError::from(Loose(std::fmt::Error));
        let expected = format!("the bolts are loose: {}", std::fmt::Error);
        assert_eq!(format!("{error:?}"), expected);
    }
}
