//! The span of a request: of one that comes with a W3C Trace Context.

use std::time::SystemTime;

use overseer::clock;
use overseer::trace::{Span, SpanKind, TraceContext, Tracer, new_span};
use tonic::{Request, Status};

use super::Service;

/// Where the context of a request is.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// A request that may be traced. One that ends without an answer says so.
pub(super) struct RequestSpan {
    /// What follows is a child of this.
    context: Option<TraceContext>,
    open: Option<Open>,
}

struct Open {
    tracer: Tracer,
    context: TraceContext,
    parent: TraceContext,
    name: &'static str,
    start: SystemTime,
}

impl Service {
    /// Begins the span of a request that is sampled, where spans are exported. A context that
    /// nobody can read is none.
    pub(super) fn trace<T>(&self, request: &Request<T>, name: &'static str) -> RequestSpan {
        let text = request.metadata().get(TRACEPARENT).and_then(|text| text.to_str().ok());
        let parent: Option<TraceContext> = text.and_then(|text| text.parse().ok());
        let traced = parent.filter(|parent| parent.sampled).zip(self.server.plane.tracer());
        let open = traced.map(|(parent, tracer)| Open {
            tracer: tracer.clone(),
            context: parent.at(new_span()),
            parent,
            name,
            start: clock::now(),
        });
        RequestSpan { context: open.as_ref().map(|open| open.context).or(parent), open }
    }
}

impl RequestSpan {
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// It was answered so.
    pub(super) fn end<T>(mut self, answer: &Result<T, Status>) {
        if let Some(open) = self.open.take() {
            open.end(answer.as_ref().err().map(|status| status.message().to_owned()));
        }
    }
}

impl Open {
    fn end(self, error: Option<String>) {
        self.tracer.record(Span {
            context: self.context,
            parent: Some(self.parent.span),
            name: self.name.into(),
            kind: SpanKind::Server,
            start: self.start,
            end: clock::now(),
            attributes: vec![("rpc.system", "grpc".to_owned())],
            error,
        });
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.end(Some("the client went away".to_owned()));
        }
    }
}
