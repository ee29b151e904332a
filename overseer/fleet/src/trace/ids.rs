use overseer_protocol::{Attempt, SpanId, TaskId, TraceContext, TraceId};

/// A span that nobody else has.
pub fn new_span() -> SpanId {
    loop {
        let bytes = crate::random::bytes();
        if bytes != [0; 8] {
            return SpanId(bytes);
        }
    }
}

/// A trace that begins here, and is sampled.
pub fn new_trace() -> TraceContext {
    loop {
        let bytes = crate::random::bytes();
        if bytes != [0; 16] {
            return TraceContext { trace: TraceId(bytes), span: new_span(), sampled: true };
        }
    }
}

/// A span of an attempt: the same for every server that has the task.
pub(super) fn of_attempt(task: TaskId, attempt: Attempt, what: &str) -> SpanId {
    let mut hash = blake3::Hasher::new();
    hash.update(&task.to_bytes()).update(&attempt.0.to_le_bytes()).update(what.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    // Not all zero, whatever the hash is.
    bytes[7] |= 1;
    SpanId(bytes)
}
