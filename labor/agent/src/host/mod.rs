//! The process that runs a release: a plugin host, a program that serves, what runs a program for
//! each call, or a program that is only watched.
//!
//! [`Host::start`] spawns it in a process group of its own and shakes hands; what it says comes
//! as [`HostOutput`]; however it ends, there is one [`Cause`].

mod child;
mod connection;
mod end;
mod isolation;
mod loader;
mod outgoing;
mod output;
mod run;
mod spawn;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use overseer_plugin::frame::Frame;
use overseer_protocol::{BootPhase, CallErrorCode, Cause};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use child::plugin_host_main;
use end::Group;
pub use isolation::{Confinement, check_user, end_stale_groups, try_groups};
use outgoing::Outgoing;

/// What to start, and how long each step may take.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// What runs.
    pub what: HostKind,
    /// What it is called where the system shows it.
    pub name: String,
    /// What it may be and use; as the agent where there is none.
    pub confinement: Option<Arc<Confinement>>,
    /// Program and arguments that lead to [`plugin_host_main`], such as `/proc/self/exe
    /// __overseer plugin-host`.
    pub command: Vec<OsString>,
    /// Set for the process, beside the few variables that it has from the agent.
    pub environment: BTreeMap<String, String>,
    /// Scratch directory, which exists; becomes the working directory.
    pub directory: PathBuf,
    /// From the spawn until the plugin has started.
    pub start_timeout: Duration,
    /// For one answer of the plugin's health check.
    pub health_timeout: Duration,
    /// From [`Host::stop`] until the process is killed.
    pub stop_timeout: Duration,
}

/// The forms of a release.
#[derive(Debug, Clone)]
pub enum HostKind {
    /// A library, loaded in a process of [`HostSpec::command`].
    Plugin {
        /// The `cdylib`.
        library: PathBuf,
    },
    /// A program that calls `overseer_plugin::serve`.
    Serve {
        /// The program.
        executable: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A program that is run once for each call, in a process of [`HostSpec::command`] that waits for it:
    /// payload on standard input, result on standard output.
    Run {
        /// The program.
        executable: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Runs at once.
        concurrency: u32,
    },
    /// A program that knows nothing of all this. It has started when it has been executed; it
    /// takes no calls, is well as long as it lives, is asked to stop by SIGTERM, and is killed
    /// when the agent dies, or the thread that started it.
    Supervise {
        /// The program.
        executable: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// What is known of a host once it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostInfo {
    /// Calls that run at once; 0 when it takes none.
    pub concurrency: u32,
    /// Its process, and process group.
    pub pid: u32,
}

/// What a host says, in order for each call; standard output and error come beside that.
#[derive(Debug)]
pub enum HostOutput {
    /// A call is over; for a cast too, so that its place is known to be free.
    Result {
        /// Which call.
        id: u64,
        /// Its result, or why there is none.
        outcome: Result<Bytes, Failure>,
    },
    /// Records as `overseer_plugin::record` encodes them.
    Telemetry {
        /// Records in this batch.
        count: u32,
        /// Records that were dropped before this batch.
        dropped: u64,
        /// The batch.
        records: Bytes,
    },
    /// A piece of a log stream.
    Log {
        /// Whose; of the host itself when absent.
        call: Option<u64>,
        /// Which; `stdout` and `stderr` of the host itself.
        stream: String,
        /// The bytes.
        data: Bytes,
    },
    /// The plugin waits for [`Host::answer_blob`]: put this file into the blobs.
    PutBlob {
        /// For the answer.
        request: u64,
        /// Absolute.
        path: PathBuf,
    },
    /// The plugin waits for [`Host::answer_blob`]: get this blob into this file.
    GetBlob {
        /// For the answer.
        request: u64,
        /// Which blob.
        digest: String,
        /// Absolute.
        path: PathBuf,
    },
    /// The process is gone. Comes once, as the last, and only for a host that has started.
    /// Calls that have no result yet have none.
    Ended(Cause),
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind.
    pub code: CallErrorCode,
    /// What the plugin said.
    pub message: String,
    /// How what the call ran was ended, where that is known.
    pub cause: Option<Cause>,
}

impl Failure {
    pub(crate) fn new(code: CallErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None }
    }
}

/// A started host; cheap to clone. When the last handle is dropped the process is killed.
#[derive(Debug, Clone)]
pub struct Host {
    handle: Arc<Handle>,
}

/// Kills when it is dropped, so that no path through the agent leaves a process behind.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    supervised: bool,
    health_timeout: Duration,
    stop_timeout: Duration,
    ended: watch::Receiver<Option<Cause>>,
}

/// Between the handle and the tasks of one host.
#[derive(Debug)]
struct Shared {
    group: Group,
    outgoing: Mutex<Outgoing>,
    /// There is something in `outgoing`.
    wake: Notify,
    /// Who waits for the health check's answer.
    health: Mutex<Vec<oneshot::Sender<Result<(), Cause>>>>,
    verdict: Mutex<Verdict>,
    /// The host knows calls that are traced.
    traces: AtomicBool,
    /// Calls that have failed because what they ran was killed for memory.
    told_for_memory: AtomicU64,
}

/// What this side knows about an end before it happens.
#[derive(Debug, Default)]
struct Verdict {
    /// The end was asked for.
    asked: bool,
    /// Why this side kills the process.
    fault: Option<Cause>,
}

impl Shared {
    /// Kills the process group for a reason; the first reason stays.
    fn condemn(&self, cause: Cause) {
        self.verdict.lock().fault.get_or_insert(cause);
        self.group.kill();
    }

    fn send(&self, frame: &Frame<'_>) -> bool {
        let good = self.outgoing.lock().push(frame);
        self.wake.notify_one();
        good
    }
}

impl Host {
    /// Starts a process and waits until it is ready: for a plugin, started and healthy. Somebody
    /// must read `output` meanwhile; a host whose output nobody takes is stopped by that. On an
    /// error the process is gone, and `output` ends without [`HostOutput::Ended`].
    ///
    /// # Errors
    /// `BootFailed`, `BootTimeout`, `Panicked`, `Unhealthy`, `Hung` of the health check, or how
    /// the process ended.
    pub async fn start(spec: HostSpec, output: mpsc::Sender<HostOutput>) -> Result<(Self, HostInfo), Cause> {
        let spawned = spawn::spawn(&spec)?;
        let pid = spawned.pid.as_raw_pid().unsigned_abs();
        let shared = Arc::new(Shared {
            group: Group::new(spawned.pid),
            outgoing: Mutex::default(),
            wake: Notify::new(),
            health: Mutex::default(),
            verdict: Mutex::default(),
            traces: AtomicBool::new(false),
            told_for_memory: AtomicU64::new(0),
        });
        let tasks = end::run(spawned, shared.clone(), output);
        let host = Self {
            handle: Arc::new(Handle {
                shared,
                supervised: matches!(spec.what, HostKind::Supervise { .. }),
                health_timeout: spec.health_timeout,
                stop_timeout: spec.stop_timeout,
                ended: tasks.ended,
            }),
        };
        match host.handshake(tasks.started, spec.start_timeout).await {
            Ok(concurrency) => {
                // The receiver is the task that waits for the end of this host.
                let _ = tasks.ready.send(());
                Ok((host, HostInfo { concurrency, pid }))
            }
            Err(cause) => {
                host.handle.shared.condemn(cause.clone());
                host.end().await;
                Err(cause)
            }
        }
    }

    /// Concurrency of a host that has started and is well.
    async fn handshake(
        &self,
        started: oneshot::Receiver<Result<u32, Cause>>,
        timeout: Duration,
    ) -> Result<u32, Cause> {
        let late = Cause::BootTimeout { phase: BootPhase::Start, after_ms: millis(timeout) };
        let concurrency = match tokio::time::timeout(timeout, started).await {
            Err(_) => return Err(late),
            Ok(Ok(started)) => started?,
            // It has ended before it said anything.
            Ok(Err(_)) => return Err(self.end().await),
        };
        // A program that is only watched may be done by now, and has started all the same.
        if !self.handle.supervised {
            self.health().await?;
        }
        Ok(concurrency)
    }

    /// Sends a call; its outcome comes as [`HostOutput::Result`], unless the host ends first.
    /// `trace` is a W3C Trace Context, or empty.
    /// Never blocks: how many calls are open is up to who admits them. An `id` is used once.
    pub fn call(&self, id: u64, cast: bool, trace: &str, method: &str, payload: Bytes) {
        let shared = &self.handle.shared;
        // One that does not know the frame would take the agent for broken.
        let trace = if shared.traces.load(Ordering::Relaxed) { trace } else { "" };
        if !shared.send(&Frame::Call { id, cast, trace, method, payload: &payload }) {
            shared.outgoing.lock().refuse(id);
            shared.wake.notify_one();
        }
    }

    /// Tells the plugin that nobody wants this call any more. It has a result all the same.
    pub fn cancel(&self, id: u64) {
        self.handle.shared.send(&Frame::Cancel { id });
    }

    /// Answers a [`HostOutput::PutBlob`] or [`HostOutput::GetBlob`] with digest and bytes, or
    /// with what went wrong.
    pub fn answer_blob(&self, request: u64, result: Result<(String, u64), String>) {
        let (good, text, size) = match &result {
            Ok((digest, size)) => (true, digest, *size),
            Err(message) => (false, message, 0),
        };
        self.handle.shared.send(&Frame::BlobAnswer { request, good, text, size });
    }

    /// Asks the plugin whether it is well. It goes on either way; what follows is up to the
    /// caller.
    ///
    /// # Errors
    /// `Unhealthy` or `Panicked` as the plugin says, `Hung` when it does not answer in time, or
    /// why the host ended.
    pub async fn health(&self) -> Result<(), Cause> {
        if let Some(cause) = self.handle.ended.borrow().clone() {
            return Err(cause);
        }
        if self.handle.supervised {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.handle.shared.health.lock().push(answer);
        self.handle.shared.send(&Frame::Health);
        let timeout = self.handle.health_timeout;
        tokio::select! {
            biased;
            Ok(answer) = answered => answer,
            cause = self.end() => Err(cause),
            () = tokio::time::sleep(timeout) => Err(Cause::Hung { after_ms: millis(timeout) }),
        }
    }

    /// Asks the host to stop, waits, and kills it when it takes too long.
    ///
    /// Gives why it ended: `Asked`, `Hung` when it had to be killed, or what else happened to it.
    pub async fn stop(&self) -> Cause {
        let shared = &self.handle.shared;
        shared.verdict.lock().asked = true;
        if self.handle.supervised {
            shared.group.terminate();
        } else {
            shared.send(&Frame::Stop);
        }
        let timeout = self.handle.stop_timeout;
        if let Ok(cause) = tokio::time::timeout(timeout, self.end()).await {
            return cause;
        }
        shared.condemn(Cause::Hung { after_ms: millis(timeout) });
        self.end().await
    }

    /// Kills the host and all that it has started, now. It ends by this cause, if by no other that is known
    /// already.
    pub fn kill(&self, cause: Cause) {
        self.handle.shared.condemn(cause);
    }

    /// Waits for the end.
    async fn end(&self) -> Cause {
        let mut ended = self.handle.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or(Cause::Asked),
            // The runtime shuts down and has dropped the host's tasks.
            Err(_) => Cause::Asked,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.condemn(Cause::Asked);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn boot_failed(reason: impl Into<String>) -> Cause {
    Cause::BootFailed { phase: BootPhase::Start, reason: reason.into() }
}
