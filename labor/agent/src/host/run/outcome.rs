use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use overseer_plugin::PluginError;
use overseer_plugin::frame::MAX_PAYLOAD;
use overseer_protocol::Cause;
use rustix::io::Errno;
use rustix::process::Signal;

use super::streams::Written;

/// How a shell says that what it ran was killed: 128 and the number of the signal.
const SAYS_KILLED: i32 = 128 + Signal::KILL.as_raw();

/// The call's result: what the program wrote when it exited with code 0, else why there is none.
/// `for_memory` is asked whether one that was killed was killed for memory.
pub(super) fn judge(
    status: io::Result<ExitStatus>,
    written: Result<Written, Errno>,
    cancelled: bool,
    for_memory: impl FnOnce() -> bool,
) -> Result<Vec<u8>, PluginError> {
    let written = written
        .map_err(|error| PluginError::failed(format!("the program's output cannot be read: {error}")))?;
    if written.too_large {
        return Err(PluginError::too_large(format!(
            "the program wrote more than the {MAX_PAYLOAD} bytes of a result to its standard output; let it store what is large and write where that is"
        )));
    }
    let status = status
        .map_err(|error| PluginError::failed(format!("the program could not be waited for: {error}")))?;
    if status.success() {
        return Ok(written.stdout);
    }
    if cancelled {
        return Err(PluginError::cancelled());
    }
    let killed = status.signal() == Some(Signal::KILL.as_raw()) || status.code() == Some(SAYS_KILLED);
    let cause = match killed && for_memory() {
        true => Cause::OutOfMemory,
        false => Cause::of_exit(status.code(), status.signal()),
    };
    let message = match written.tail.text() {
        said if said.is_empty() => format!("the program failed: {cause}; it wrote nothing to standard error"),
        said => format!("the program failed: {cause}; the end of its standard error:\n{said}"),
    };
    Err(match cause {
        Cause::OutOfMemory => PluginError::out_of_memory(message),
        _ => PluginError::failed(message),
    })
}
