//! Runs a plugin's code without an agent: contexts that keep what was said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::context::Call;
use crate::link::Link;
use crate::record::{Body, Records};
use crate::{BlobRef, CallContext, StartContext};

/// Keeps what a plugin says to its contexts. Blobs are files below `DIRECTORY/blobs`, named by
/// the order in which they came.
#[derive(Debug, Clone)]
pub struct Recorder {
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Kept {
    directory: PathBuf,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    records: Vec<String>,
    logs: BTreeMap<(u64, String), Vec<u8>>,
    blobs: u64,
    traces: BTreeMap<u64, String>,
}

/// A call of a [`Recorder`], which the test may cancel.
#[derive(Debug)]
pub struct TestCall {
    /// For the plugin.
    pub context: CallContext,
    call: Arc<Call>,
}

impl TestCall {
    /// Cancels the call, as its caller would.
    pub fn cancel(&self) {
        self.call.cancel();
    }
}

impl Recorder {
    /// A recorder whose contexts have this scratch directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { kept: Arc::new(Kept { directory: directory.into(), said: Mutex::default() }) }
    }

    /// For [`Plugin::start`](crate::Plugin::start).
    pub fn start_context(&self) -> StartContext {
        StartContext::new(self.kept.clone())
    }

    /// For [`Plugin::call`](crate::Plugin::call).
    pub fn call(&self, id: u64) -> TestCall {
        let call = Call::new(id, self.kept.clone());
        TestCall { context: CallContext::new(call.clone()), call }
    }

    /// From now on that call is traced, under this W3C Trace Context.
    pub fn trace(&self, call: u64, traceparent: impl Into<String>) {
        self.kept.said().traces.insert(call, traceparent.into());
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> Arc<dyn Link> {
        self.kept.clone()
    }

    /// All telemetry in order, one line a record: `progress NAME DONE/TOTAL`,
    /// `metric NAME VALUE`, `event NAME JSON`, `line TEXT`; `dropped` for what was too large.
    pub fn records(&self) -> Vec<String> {
        self.kept.said().records.clone()
    }

    /// What one log stream of a call holds.
    pub fn log(&self, call: u64, stream: &str) -> Vec<u8> {
        self.kept.said().logs.get(&(call, stream.to_owned())).cloned().unwrap_or_default()
    }

    /// Every log stream of a call, sorted by name.
    pub fn streams(&self, call: u64) -> Vec<String> {
        self.kept.said().logs.keys().filter(|(of, _)| *of == call).map(|(_, stream)| stream.clone()).collect()
    }
}

impl Kept {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for Kept {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn telemetry(&self, record: &[u8]) {
        let Some(Ok(record)) = Records::new(record).next() else {
            return self.said().records.push("dropped".into());
        };
        let text = match record.body {
            Body::Progress { what, done, total } => format!("progress {what} {done}/{total}"),
            Body::Metric { name, value } => format!("metric {name} {value}"),
            Body::Event { name, data } => format!("event {name} {}", String::from_utf8_lossy(data)),
            Body::Line { text } => format!("line {text}"),
        };
        self.said().records.push(text);
    }

    fn log(&self, call: u64, stream: &str, bytes: &[u8]) {
        self.said().logs.entry((call, stream.to_owned())).or_default().extend_from_slice(bytes);
    }

    fn trace(&self, call: u64) -> Option<String> {
        self.said().traces.get(&call).cloned()
    }

    fn put_blob(&self, file: &Path) -> Result<BlobRef, String> {
        let mut said = self.said();
        said.blobs += 1;
        let digest = format!("blob-{}", said.blobs);
        let blobs = self.directory.join("blobs");
        let size = std::fs::create_dir_all(&blobs).and_then(|()| std::fs::copy(file, blobs.join(&digest)));
        size.map(|size| BlobRef { digest, size }).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn get_blob(&self, digest: &str, to: &Path) -> Result<u64, String> {
        std::fs::copy(self.directory.join("blobs").join(digest), to)
            .map_err(|error| format!("blob {digest}: {error}"))
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
