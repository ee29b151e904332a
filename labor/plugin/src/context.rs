use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::link::Link;
use crate::record::{Body, Record};
use crate::{PluginError, codec, handover};

/// A file in the Overseer's blobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// Address of the contents, as [`CallContext::get_blob`] takes it.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// What a plugin has while it starts; a clone may be kept to speak outside of any call.
#[derive(Clone)]
pub struct StartContext {
    link: Arc<dyn Link>,
}

impl StartContext {
    pub(crate) fn new(link: Arc<dyn Link>) -> Self {
        Self { link }
    }

    /// Scratch directory of this plugin host: exists, is the working directory, and is removed
    /// by the agent after the host's end.
    pub fn directory(&self) -> &Path {
        self.link.directory()
    }

    /// What the release that ran here before has [left](Self::leave) to this one, whose manifest says
    /// `handover = true`; none where it left nothing, or where none ran.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn inherited(&self) -> Result<Option<Vec<u8>>, PluginError> {
        handover::inherited().map_err(|e| PluginError::failed(format!("what was left cannot be read: {e}")))
    }

    /// Leaves bytes to the release that follows on this labor, up to
    /// [`MAX_LEFT`](crate::handover::MAX_LEFT) of them; mostly in [`Plugin::stop`](crate::Plugin::stop).
    /// The last that was left counts.
    ///
    /// # Errors
    /// Too much, or it cannot be written.
    pub fn leave(&self, bytes: &[u8]) -> Result<(), PluginError> {
        handover::leave(bytes).map_err(|e| PluginError::failed(format!("nothing is left: {e}")))
    }

    /// Says that something happened. `data` travels as JSON, up to
    /// [`record::MAX_RECORD`](crate::record::MAX_RECORD) bytes.
    pub fn event(&self, name: &str, data: &impl Serialize) {
        event(&*self.link, 0, name, data);
    }

    /// Reports a number.
    pub fn metric(&self, name: &str, value: f64) {
        emit(&*self.link, 0, Body::Metric { name, value });
    }
}

impl fmt::Debug for StartContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartContext").field("directory", &self.directory()).finish()
    }
}

/// What a call has: its id, its cancellation, and ways to speak while it runs. Cheap to clone;
/// clones may go to other threads and outlive the call.
///
/// Telemetry ([`progress`](Self::progress), [`event`](Self::event), [`metric`](Self::metric),
/// [`line`](Self::line)) never blocks: it is buffered with a bound, the oldest is dropped when
/// the bound is met, and the Overseer is told how many. Logs ([`log`](Self::log)) are never
/// dropped, so they block instead.
#[derive(Clone)]
pub struct CallContext {
    call: Arc<Call>,
}

/// The shared part of a call's contexts.
pub(crate) struct Call {
    id: u64,
    link: Arc<dyn Link>,
    trace: OnceLock<Option<String>>,
    cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    callbacks: Vec<Box<dyn FnOnce() + Send>>,
    over: bool,
}

impl Call {
    pub(crate) fn new(id: u64, link: Arc<dyn Link>) -> Arc<Self> {
        Arc::new(Self {
            id,
            link,
            trace: OnceLock::new(),
            cancelled: AtomicBool::new(false),
            waiting: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Marks the call as cancelled and wakes whoever waits for that. What was to run on cancel
    /// runs on a thread of its own, so that it cannot hold up other calls.
    pub(crate) fn cancel(&self) {
        let mut waiting = self.waiting();
        self.cancelled.store(true, Ordering::Release);
        let callbacks = std::mem::take(&mut waiting.callbacks);
        drop(waiting);
        self.changed.notify_all();
        if !callbacks.is_empty() {
            run_apart(callbacks);
        }
    }

    /// The call is over: nothing runs on cancel any more. The callbacks may hold contexts of this
    /// call, which would keep each other alive for ever.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting();
        waiting.over = true;
        let callbacks = std::mem::take(&mut waiting.callbacks);
        drop(waiting);
        drop(callbacks);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallContext {
    pub(crate) fn new(call: Arc<Call>) -> Self {
        Self { call }
    }

    /// Number of this call on this host; never used twice.
    pub fn id(&self) -> u64 {
        self.call.id
    }

    /// Where this call stands in a distributed trace: the value of the header `traceparent` of W3C
    /// Trace Context, of the span that is this run in the plugin. Nothing where nobody traces the
    /// call, or the agent is too old to say it. Ask for it while the call runs.
    pub fn trace(&self) -> Option<&str> {
        self.call.trace.get_or_init(|| self.call.link.trace(self.call.id)).as_deref()
    }

    /// Whether the caller no longer wants the result. A call that is cancelled should end soon;
    /// one that does not costs the whole plugin host when its deadline is over.
    pub fn is_cancelled(&self) -> bool {
        self.call.cancelled.load(Ordering::Acquire)
    }

    /// Waits until the call is cancelled, at most `timeout`; says whether it is.
    pub fn wait_cancelled(&self, timeout: Duration) -> bool {
        // A deadline beyond the clock's range is no deadline; a year is as good.
        let year = Duration::from_secs(365 * 24 * 3600);
        let deadline = Instant::now() + timeout.min(year);
        let mut waiting = self.call.waiting();
        while !self.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting = self.call.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Runs `callback` when the call is cancelled, or at once when it is already; on a thread of
    /// its own. Forgotten when the call ends without.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        let mut waiting = self.call.waiting();
        if self.is_cancelled() {
            drop(waiting);
            run_apart(vec![Box::new(callback)]);
        } else if !waiting.over {
            waiting.callbacks.push(Box::new(callback));
        }
    }

    /// Scratch directory of this plugin host, shared by all its calls.
    pub fn directory(&self) -> &Path {
        self.call.link.directory()
    }

    /// Says how far the call is: `done` of `total`, in units that `what` names.
    pub fn progress(&self, done: u64, total: u64, what: &str) {
        emit(&*self.call.link, self.call.id, Body::Progress { what, done, total });
    }

    /// Says that something happened. `data` travels as JSON, up to
    /// [`record::MAX_RECORD`](crate::record::MAX_RECORD) bytes; more is dropped and counted.
    pub fn event(&self, name: &str, data: &impl Serialize) {
        event(&*self.call.link, self.call.id, name, data);
    }

    /// Reports a number.
    pub fn metric(&self, name: &str, value: f64) {
        emit(&*self.call.link, self.call.id, Body::Metric { name, value });
    }

    /// Says a sentence for people; cut at
    /// [`record::MAX_RECORD`](crate::record::MAX_RECORD) bytes.
    pub fn line(&self, text: impl AsRef<str>) {
        emit(&*self.call.link, self.call.id, Body::Line { text: text.as_ref() });
    }

    /// Appends to a log stream of this call, such as `stdout`. Blocks while the agent takes no
    /// more: logs are never dropped silently.
    pub fn log(&self, stream: &str, bytes: &[u8]) {
        self.call.link.log(self.call.id, stream, bytes);
    }

    /// Puts a file into the Overseer's blobs. Blocks until it is there.
    ///
    /// # Errors
    /// What the agent says: no such file, no connection.
    pub fn put_blob(&self, file: &Path) -> Result<BlobRef, PluginError> {
        self.call.link.put_blob(&absolute(file)?).map_err(PluginError::failed)
    }

    /// Gets a blob into a file, which is made or replaced. Blocks until it is there and
    /// verified; gives its bytes.
    ///
    /// # Errors
    /// What the agent says: no such blob, no connection, no space.
    pub fn get_blob(&self, digest: &str, to: &Path) -> Result<u64, PluginError> {
        self.call.link.get_blob(digest, &absolute(to)?).map_err(PluginError::failed)
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("id", &self.id())
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

fn run_apart(callbacks: Vec<Box<dyn FnOnce() + Send>>) {
    let run = move || {
        for callback in callbacks {
            // One that panics has been reported by the panic hook; the others still run.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("on-cancel".into()).spawn(run) {
        eprintln!("no thread for on_cancel: {error}; the call sees is_cancelled() alone");
    }
}

/// The agent has another working directory than the host.
fn absolute(path: &Path) -> Result<std::path::PathBuf, PluginError> {
    std::path::absolute(path).map_err(|error| PluginError::failed(format!("{}: {error}", path.display())))
}

fn event(link: &dyn Link, call: u64, name: &str, data: &impl Serialize) {
    // What is no JSON still says that it happened, and why its data is missing.
    let data = codec::encode(data)
        .unwrap_or_else(|error| serde_json::json!({ "error": error.message }).to_string().into_bytes());
    emit(link, call, Body::Event { name, data: &data });
}

fn emit(link: &dyn Link, call: u64, body: Body<'_>) {
    thread_local! {
        static SPACE: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let record = Record { micros: u64::try_from(micros).unwrap_or(u64::MAX), call, body };
    SPACE.with_borrow_mut(|space| {
        space.clear();
        record.encode(space);
        link.telemetry(space);
    });
}
