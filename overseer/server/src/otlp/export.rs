use std::env;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use overseer::trace::{self, Span};

use super::{Collector, TIME};
use crate::failure::Failure;

/// Speaks OTLP over gRPC.
pub(super) struct Exporter {
    exporter: SpanExporter,
    scope: InstrumentationScope,
}

impl Exporter {
    pub(super) fn new(collector: &Collector, service: &'static str) -> Result<Self, Failure> {
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(&collector.0).with_timeout(TIME).build();
        let mut exporter = exporter.map_err(|error| {
            Failure::fault("serve.otlp", format!("spans cannot be sent to {}: {error}", collector.0))
        })?;
        let mut resource = Resource::builder();
        if env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
            resource = resource.with_service_name(service);
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        exporter.set_resource(&resource.with_attribute(version).build());
        let scope = InstrumentationScope::builder("overseer").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { exporter, scope })
    }

    pub(super) async fn export(&self, spans: Vec<Span>) -> Result<(), String> {
        let spans = spans.into_iter().map(|span| self.data(span)).collect();
        self.exporter.export(spans).await.map_err(|error| error.to_string())
    }

    fn data(&self, span: Span) -> SpanData {
        let Span { context, parent, name, kind, start, end, attributes, error } = span;
        let id = SpanId::from_bytes(context.span.0);
        let trace = TraceId::from_bytes(context.trace.0);
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.0)),
            parent_span_is_remote: kind == trace::SpanKind::Server,
            span_kind: match kind {
                trace::SpanKind::Client => SpanKind::Client,
                trace::SpanKind::Server => SpanKind::Server,
                trace::SpanKind::Internal => SpanKind::Internal,
            },
            name,
            start_time: start,
            end_time: end,
            attributes: attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}
