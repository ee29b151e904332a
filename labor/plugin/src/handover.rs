//! What one release leaves to the next one on the same labor: bytes, in a file between two plugin
//! hosts.
//!
//! A release whose manifest says `handover` starts when the one before it has stopped, and finds what
//! that has left. Until it is up calls wait; if it does not get up, the one before is started again,
//! and finds the same.

use std::io;
use std::path::PathBuf;

/// The variable that names the file in which a plugin leaves something.
pub const LEFT_IN: &str = "OVERSEER_LEFT_IN";
/// The variable that names the file in which something was left to a plugin.
pub const INHERITED_FROM: &str = "OVERSEER_INHERITED_FROM";
/// Most that can be left, in bytes.
pub const MAX_LEFT: usize = 64 << 20;

/// What the release before this one has left; none where nothing was left, or nobody was before.
///
/// # Errors
/// It is there and cannot be read.
pub(crate) fn inherited() -> io::Result<Option<Vec<u8>>> {
    let Some(path) = std::env::var_os(INHERITED_FROM) else { return Ok(None) };
    match std::fs::read(&path) {
        Ok(left) => Ok(Some(left)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Leaves this; the last one counts.
///
/// # Errors
/// Over [`MAX_LEFT`]; no agent has started this process; the file cannot be written.
pub(crate) fn leave(bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_LEFT {
        let size = bytes.len();
        return Err(io::Error::other(format!("{size} bytes are to be left, allowed are {MAX_LEFT}")));
    }
    let path = std::env::var_os(LEFT_IN).map(PathBuf::from);
    let path = path.ok_or_else(|| io::Error::other("nobody takes what is left here: no agent runs this"))?;
    let part = path.with_extension("part");
    // Nobody sees half of it.
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, &path)
}
