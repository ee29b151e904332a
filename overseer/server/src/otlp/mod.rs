//! Spans on their way to a collector, over OTLP.
//!
//! A collector that is slow or dead slows nothing down: spans wait in a queue with a bound, what
//! does not fit is dropped and counted, and at the end there is a time for the rest.

#[cfg(feature = "otlp")]
mod export;

use std::env;
use std::time::Duration;

use overseer::trace::{Span, Tracer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Spans that wait.
const WAITING: usize = 4096;
/// Spans of one export.
const BATCH: usize = 512;
/// How long one export may take.
const TIME: Duration = Duration::from_secs(5);
/// How long the last ones may take, when the program ends.
const LAST: Duration = Duration::from_secs(2);

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector(String);

impl Collector {
    /// An address such as `http://127.0.0.1:4317`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri = text.parse::<tonic::transport::Uri>().map_err(|error| format!("{text:?}: {error}"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(_)) => Ok(Self(text.to_owned())),
            (Some("https"), _) => Err(format!(
                "{text:?} needs TLS, which spans do not travel over; send them to a collector near by"
            )),
            _ => Err(format!("{text:?} is not the address of a collector")),
        }
    }

    /// As `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` name it.
    ///
    /// # Errors
    /// `serve.otlp`.
    pub(crate) fn from_environment() -> Result<Option<Self>, Failure> {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let said = names.iter().find_map(|name| Some((name, env::var(name).ok().filter(|v| !v.is_empty())?)));
        let Some((name, text)) = said else { return Ok(None) };
        Self::parse(&text).map(Some).map_err(|why| {
            Failure::input("serve.otlp", format!("{name}: {why}"))
                .help("give it as http://HOST:PORT, or unset it")
        })
    }
}

/// Takes spans in, for as long as it lives.
pub(crate) struct Exporting {
    pub(crate) tracer: Tracer,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Begins; nobody connects before there is a span. `service`: what it is called, where
    /// `OTEL_SERVICE_NAME` does not say it.
    ///
    /// # Errors
    /// `serve.otlp`: the program was built without it.
    pub(crate) fn start(collector: &Collector, service: &'static str) -> Result<Self, Failure> {
        let exporter = Exporter::new(collector, service)?;
        let (tracer, spans) = Tracer::new(WAITING);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(exporter, spans, tracer.clone(), stopped));
        Ok(Self { tracer, stop, task })
    }

    /// Sends what still waits, within its time.
    pub(crate) async fn end(self) {
        let Self { stop, mut task, .. } = self;
        let _ = stop.send(());
        if tokio::time::timeout(LAST, &mut task).await.is_err() {
            tracing::warn!("the last spans did not reach the collector");
            task.abort();
        }
    }
}

async fn run(
    exporter: Exporter,
    mut spans: mpsc::Receiver<Span>,
    tracer: Tracer,
    mut stop: oneshot::Receiver<()>,
) {
    let mut batch = Vec::new();
    let mut works = true;
    loop {
        tokio::select! {
            taken = spans.recv_many(&mut batch, BATCH) => if taken == 0 { return },
            // What waits is still taken, and then nothing follows.
            _ = &mut stop, if !spans.is_closed() => spans.close(),
        }
        if batch.is_empty() {
            continue;
        }
        let count = batch.len() as u64;
        let export = tokio::time::timeout(TIME, exporter.export(std::mem::take(&mut batch)));
        let failed = match export.await {
            Ok(exported) => exported.err(),
            Err(_) => Some(format!("no answer within {} s", TIME.as_secs())),
        };
        match &failed {
            Some(error) => {
                tracer.not_exported(count);
                // Once, and not for every batch: it may be away for days.
                if std::mem::replace(&mut works, false) {
                    tracing::warn!(%error, "spans do not reach the collector; they are lost until they do");
                }
            }
            None => works = true,
        }
    }
}

#[cfg(feature = "otlp")]
use self::export::Exporter;

/// Where the program was built without it.
#[cfg(not(feature = "otlp"))]
struct Exporter;

#[cfg(not(feature = "otlp"))]
impl Exporter {
    fn new(_: &Collector, _: &'static str) -> Result<Self, Failure> {
        Err(Failure::input("serve.otlp", "this program was built without the feature `otlp`")
            .help("build it with that, or say nothing of a collector"))
    }

    async fn export(&self, _: Vec<Span>) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_has_an_address_without_tls() {
        assert!(Collector::parse("http://127.0.0.1:4317").is_ok());
        for wrong in ["", "127.0.0.1:4317", "localhost", "ftp://x", "https://collector:4317", "http://"] {
            assert!(Collector::parse(wrong).is_err(), "{wrong}");
        }
    }
}
