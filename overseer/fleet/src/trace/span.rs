use std::borrow::Cow;
use std::time::SystemTime;

use overseer_protocol::{SpanId, TraceContext};

/// On which side of a request a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// It asks.
    Client,
    /// It is asked.
    Server,
    /// Within a program.
    Internal,
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace and its own id.
    pub context: TraceContext,
    /// The span that it is a child of; none at the root of a trace.
    pub parent: Option<SpanId>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Its side.
    pub kind: SpanKind,
    /// Its begin.
    pub start: SystemTime,
    /// Its end.
    pub end: SystemTime,
    /// More on it, by name.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}
