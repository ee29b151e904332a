//! The span of a command: a child of `$TRACEPARENT`, or the root of a trace where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.

use std::time::SystemTime;

use overseer::trace::{Span, SpanKind, TraceContext, new_span, new_trace};
use tonic::Request;

use crate::api::TRACEPARENT;
use crate::failure::Failure;
use crate::otlp::{Collector, Exporting};

/// A command that may be traced.
pub(super) struct CommandSpan {
    context: Option<TraceContext>,
    open: Option<Open>,
}

struct Open {
    exporting: Exporting,
    name: &'static str,
    parent: Option<TraceContext>,
    start: SystemTime,
}

impl CommandSpan {
    /// Begins, as the environment says. What is wrong there is said, and traces nothing: the
    /// command is what counts.
    pub(super) fn begin(name: &'static str) -> Self {
        let text = std::env::var("TRACEPARENT").ok().filter(|text| !text.is_empty());
        let parent = text.and_then(|text| {
            text.parse().inspect_err(|error| tracing::warn!(%error, "$TRACEPARENT is of no use")).ok()
        });
        let collector = Collector::from_environment();
        let collector = collector.unwrap_or_else(|failure| {
            tracing::warn!(%failure, "the command is not traced");
            None
        });
        let wanted = parent.is_none_or(|parent: TraceContext| parent.sampled);
        let open = collector.filter(|_| wanted).and_then(|collector| {
            let exporting = Exporting::start(&collector, "overseer-client");
            let exporting =
                exporting.inspect_err(|failure| tracing::warn!(%failure, "it is not traced")).ok()?;
            Some(Open { exporting, name, parent, start: SystemTime::now() })
        });
        let context = match (&open, parent) {
            (Some(_), Some(parent)) => Some(parent.at(new_span())),
            (Some(_), None) => Some(new_trace()),
            (None, parent) => parent,
        };
        Self { context, open }
    }

    /// A request that is a child of this.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // Its text is plain ASCII.
        if let Some(value) = self.context.and_then(|context| context.to_string().parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, value);
        }
        request
    }

    /// It came out so. Waits a short time for the collector.
    pub(super) async fn end<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let (Some(context), Some(open)) = (self.context, self.open) {
            open.exporting.tracer.record(Span {
                context,
                parent: open.parent.map(|parent| parent.span),
                name: open.name.into(),
                kind: SpanKind::Client,
                start: open.start,
                end: SystemTime::now(),
                attributes: Vec::new(),
                error: result.as_ref().err().map(ToString::to_string),
            });
            open.exporting.end().await;
        }
        result
    }
}
