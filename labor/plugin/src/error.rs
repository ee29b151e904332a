use std::fmt;

/// Why a plugin could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// What kind of failure; the caller's retry rule reads it.
    pub kind: ErrorKind,
    /// For the person who called: what went wrong and what to do.
    pub message: String,
}

/// Kinds of [`PluginError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The work itself failed.
    Failed,
    /// There is no such method.
    NoMethod,
    /// The payload is not what the method takes.
    BadPayload,
    /// The call saw its cancellation and gave up.
    Cancelled,
    /// The result is over the limit.
    TooLarge,
    /// The work failed, for what the call ran was ended for its memory: that is told beside the message.
    OutOfMemory,
}

impl PluginError {
    /// The work itself failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: message.into() }
    }

    /// There is no such method.
    pub fn no_method(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::NoMethod, message: message.into() }
    }

    /// The payload is not what the method takes.
    pub fn bad_payload(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::BadPayload, message: message.into() }
    }

    /// The call saw its cancellation and gave up.
    pub fn cancelled() -> Self {
        Self { kind: ErrorKind::Cancelled, message: "the call was cancelled".into() }
    }

    /// The result is over the limit.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::TooLarge, message: message.into() }
    }

    /// What the call ran was ended for its memory.
    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::OutOfMemory, message: message.into() }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PluginError {}

impl From<String> for PluginError {
    fn from(message: String) -> Self {
        Self::failed(message)
    }
}

impl From<&str> for PluginError {
    fn from(message: &str) -> Self {
        Self::failed(message)
    }
}

impl From<std::io::Error> for PluginError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
