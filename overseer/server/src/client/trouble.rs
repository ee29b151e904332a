//! What is wrong with a server, as it is shown.

use serde::Serialize;

use crate::api::proto;
use crate::output::Target;

/// One trouble, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct TroubleDocument {
    part: String,
    path: String,
    file_system: String,
    reason: String,
    help: String,
    free: u64,
    needed: u64,
    since_ms: u64,
}

impl From<proto::Trouble> for TroubleDocument {
    fn from(now: proto::Trouble) -> Self {
        Self {
            part: now.part,
            path: now.path,
            file_system: now.file_system,
            reason: now.reason,
            help: now.help,
            free: now.free,
            needed: now.needed,
            since_ms: now.since_ms,
        }
    }
}

impl TroubleDocument {
    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { part, path, reason, help, .. } = self;
        match &**part {
            "fleet" => format!("the fleet {path} is not served: {reason}; {help}"),
            "files" => format!("the server is overloaded: file descriptors are used up: {reason}; {help}"),
            // Who sees one fleet is not told of the machine.
            _ if path.is_empty() => {
                format!("the server is read-only: the {part} cannot be written: {reason}; {help}")
            }
            _ => format!("the server is read-only: the {part} in {path} cannot be written: {reason}; {help}"),
        }
    }
}

/// Warns people on standard error, whatever is printed.
pub(super) fn warn(all: &[TroubleDocument]) {
    for now in all {
        Target::Stderr.write(&format!("warning: {}\n", now.text()));
    }
}
