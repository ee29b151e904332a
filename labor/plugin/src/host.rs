//! The loop of a plugin host: the process that runs a plugin for an agent.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::abi::{Guest, host_table};
use crate::frame::{Frame, MAX_PAYLOAD, PROTOCOL};
use crate::link::Link;
use crate::outbox::Outbox;
use crate::turns::{Due, Input, Job, Turns, Urgent};
use crate::{BlobRef, Plugin, Status};

/// How long a plugin may take to stop when its agent is gone and nobody else would end it.
const ORPHAN_STOP: Duration = Duration::from_secs(2);

/// How often is looked whether a call takes longer than thought: short for a call that waits, long
/// for a processor.
const LOOK: Duration = Duration::from_micros(150);
/// Looks without any call, after which nobody looks.
const CALM: u32 = 20;

/// Variable that says how long a host stays awake for the next call while calls come one after the
/// other, in microseconds. Its agent sets it.
pub const SPIN: &str = "OVERSEER_SPIN_US";
/// Longest such time.
const MOST_SPIN: Duration = Duration::from_millis(1);

/// Exit code of a host whose plugin did not start, or that nobody can talk to.
const UNSTARTED: u8 = 70;

/// Runs a plugin of this very program as a plugin host: what `main` of a release of kind
/// `program` in mode `serve` calls, before it has touched standard input. Speaks with the agent
/// over the socket that it finds there, and ends with it.
///
/// ```no_run
/// # use overseer_plugin::{CallContext, Plugin, PluginError, StartContext};
/// # struct Greeter;
/// # impl Plugin for Greeter {
/// #     fn start(_: &StartContext) -> Result<Self, PluginError> { Ok(Self) }
/// #     fn call(&self, _: &CallContext, _: &str, _: &[u8]) -> Result<Vec<u8>, PluginError> { Ok(vec![]) }
/// # }
/// fn main() -> std::process::ExitCode {
///     overseer_plugin::serve::<Greeter>()
/// }
/// ```
pub fn serve<P: Plugin>() -> ExitCode {
    match take_socket() {
        Ok(socket) => run(Guest::of::<P>(), socket),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(UNSTARTED)
        }
    }
}

/// Takes the agent's socket away from standard input, where `/dev/null` comes in its place: what
/// the plugin reads and prints cannot be mistaken for the protocol, and programs that it runs do
/// not inherit it.
///
/// # Errors
/// Standard input is no socket.
pub fn take_socket() -> io::Result<UnixStream> {
    let stdin = rustix::stdio::stdin();
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(stdin)?.st_mode);
    if kind != rustix::fs::FileType::Socket {
        return Err(io::Error::other(
            "standard input is no socket: this program is a plugin host, started by an agent; put it into a release and start a labor with that",
        ));
    }
    // Above what a plugin would close or reuse by number; not so far where few files are allowed.
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 100)
        .or_else(|_| rustix::io::fcntl_dupfd_cloexec(stdin, 10))?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(UnixStream::from(socket))
}

/// Tells the agent that there is nothing to run, and why.
pub fn refuse(socket: &UnixStream, message: &str) -> ExitCode {
    let mut frame = Vec::new();
    let _ = Frame::StartFailed { status: Status::Failed, message }.encode(&mut frame);
    let _ = io::Write::write_all(&mut &*socket, &frame);
    ExitCode::from(UNSTARTED)
}

/// Starts a plugin and answers its agent until that says stop or is gone. Ends the process in
/// both cases, and returns only when the plugin does not start.
pub fn run(guest: Guest, socket: UnixStream) -> ExitCode {
    let (directory, reading) = match std::env::current_dir().and_then(|at| Ok((at, socket.try_clone()?))) {
        Ok(both) => both,
        Err(error) => {
            return refuse(&socket, &format!("the plugin host has no directory or socket: {error}"));
        }
    };
    let host: &'static Host = Box::leak(Box::new(Host {
        guest,
        concurrency: guest.concurrency() as usize,
        said: Arc::new(Said {
            directory,
            outbox: Outbox::new(socket),
            blobs: Mutex::default(),
            traces: Mutex::default(),
        }),
        turns: Mutex::new(Turns::new(Input::new(reading))),
        spin: spin(std::env::var(SPIN).ok().as_deref()),
        changed: Condvar::new(),
        watch: Condvar::new(),
        quiet: Condvar::new(),
    }));
    let linger = host.spawn("linger", || host.said.outbox.linger());
    if let Err(error) = linger.and_then(|()| host.spawn("watch", || host.watch())) {
        eprintln!("{error}");
        return ExitCode::from(UNSTARTED);
    }
    let (status, message) = guest.start(host_table(host.said.clone()));
    if status != Status::Done {
        let message = String::from_utf8_lossy(&message);
        host.said.outbox.send(&Frame::StartFailed { status, message: &message });
        host.said.outbox.flush();
        return ExitCode::from(UNSTARTED);
    }
    let hello = Frame::Hello { protocol: PROTOCOL, abi: guest.version(), concurrency: guest.concurrency() };
    host.said.outbox.send(&hello);
    host.turns().threads = 1;
    host.work()
}

fn spin(wanted: Option<&str>) -> Duration {
    let micros = wanted.and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_micros(micros).min(MOST_SPIN)
}

struct Host {
    guest: Guest,
    concurrency: usize,
    said: Arc<Said>,
    turns: Mutex<Turns>,
    spin: Duration,
    /// There is work for an idle thread.
    changed: Condvar,
    /// There is something to look at for the thread that watches.
    watch: Condvar,
    /// No call runs.
    quiet: Condvar,
}

impl Host {
    /// What every thread of the host does, for ever.
    fn work(&'static self) -> ! {
        let mut turns = self.turns();
        loop {
            if let Some(urgent) = turns.urgent.pop_front() {
                self.hand_over(turns);
                match urgent {
                    Urgent::Health => self.health(),
                    Urgent::Stop => self.stop(),
                }
                turns = self.turns();
            } else if let Some(job) = turns.begin(self.concurrency) {
                // Under the lock, so that whoever reads a cancellation finds the call either
                // waiting or begun.
                self.guest.begin(job.id);
                let began = Instant::now();
                let keeps = turns.pace.begin(began);
                if keeps {
                    self.keep(turns);
                } else {
                    self.hand_over(turns);
                }
                self.call(&job, keeps);
                let now = Instant::now();
                turns = self.turns();
                turns.pace.end(began, now);
                turns.running.remove(&job.id);
                if turns.running.is_empty() && turns.stopping {
                    self.quiet.notify_all();
                }
                let waits = keeps && turns.pace.hold(now) && turns.call_waits(self.concurrency);
                if keeps && !waits {
                    turns.pace.written();
                    drop(turns);
                    self.said.outbox.write_out();
                    turns = self.turns();
                }
            } else if let Some(mut input) = turns.input.take() {
                let spin = if turns.pace.keeps() { self.spin } else { Duration::ZERO };
                drop(turns);
                if !input.read(spin) {
                    self.orphaned();
                }
                turns = self.turns();
                let due = turns.take_in(&mut input.decoder);
                turns.input = Some(input);
                if !due.is_empty() {
                    drop(turns);
                    due.into_iter().for_each(|due| self.settle(due));
                    turns = self.turns();
                }
            } else {
                turns.idle += 1;
                turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
                turns.idle -= 1;
            }
        }
    }

    /// Before a thread turns to plugin code: another one takes over what else there is to do,
    /// reading at the least.
    fn hand_over(&'static self, mut turns: MutexGuard<'_, Turns>) {
        if !turns.work_waits(self.concurrency) {
            return;
        }
        if turns.idle > 0 {
            drop(turns);
            self.changed.notify_one();
        } else if turns.threads < self.concurrency + 3 {
            // One for each call, one to read, one each for health and stop.
            turns.threads += 1;
            drop(turns);
            if let Err(error) = self.spawn("work", || self.work()) {
                // The threads that there are go on; they only come to it later.
                self.turns().threads -= 1;
                eprintln!("{error}");
            }
        }
    }

    /// In place of [`Host::hand_over`] before a call that is over soon.
    fn keep(&self, mut turns: MutexGuard<'_, Turns>) {
        let watched = std::mem::replace(&mut turns.pace.watched, true);
        drop(turns);
        if !watched {
            self.watch.notify_one();
        }
    }

    /// Lets others in when a call takes longer than was thought; the work of a thread of its own.
    fn watch(&'static self) -> ! {
        let mut turns = self.turns();
        loop {
            while !turns.pace.watched {
                turns = self.watch.wait(turns).unwrap_or_else(PoisonError::into_inner);
            }
            let (mut begun, mut calm) = (turns.pace.begun, 0);
            while calm < CALM {
                drop(turns);
                std::thread::sleep(LOOK);
                turns = self.turns();
                calm = if turns.pace.begun == begun { calm + 1 } else { 0 };
                if calm > 0 && !turns.running.is_empty() {
                    self.hand_over(turns);
                    self.said.outbox.write_out();
                    turns = self.turns();
                }
                begun = turns.pace.begun;
            }
            turns.pace.watched = false;
        }
    }

    fn spawn<T: Send + 'static>(
        &'static self,
        name: &str,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<()> {
        let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
        spawned
            .map(drop)
            .map_err(|error| io::Error::other(format!("no thread: {error}; raise the limit of processes")))
    }

    /// `keeps`: its answer is written by whoever calls this.
    fn call(&self, job: &Job, keeps: bool) {
        if !job.trace.is_empty() {
            self.said.traces().insert(job.id, job.trace.clone());
        }
        let (status, data) = self.guest.call(job.id, job.cast, job.method.as_bytes(), &job.payload);
        if !job.trace.is_empty() {
            self.said.traces().remove(&job.id);
        }
        if data.len() <= MAX_PAYLOAD {
            let answer = Frame::Result { id: job.id, status, data: &data };
            match keeps {
                true => self.said.outbox.push(&answer),
                false => self.said.outbox.send(&answer),
            };
        } else {
            let message = format!(
                "the result has {} bytes, more than the {MAX_PAYLOAD} allowed; put it into a blob and return its digest",
                data.len()
            );
            self.answer(job.id, Status::TooLarge, message.as_bytes());
        }
    }

    fn answer(&self, id: u64, status: Status, data: &[u8]) {
        self.said.outbox.send(&Frame::Result { id, status, data });
    }

    fn settle(&'static self, due: Due) {
        match due {
            Due::Cancel(id) => self.guest.cancel(id),
            Due::NotBegun(id) => {
                self.answer(id, Status::Cancelled, b"the call was cancelled before it began");
            }
            Due::Refused(id) => {
                self.answer(id, Status::Overloaded, b"too many calls wait in the plugin host; call later");
            }
            Due::Credit(bytes) => self.said.outbox.credit(bytes),
            Due::Blob(request, answer) => self.said.blob_answered(request, answer),
            Due::Broken(what) => {
                eprintln!("the agent sent {what}; agent and plugin host are of different versions");
                self.orphaned()
            }
        }
    }

    fn health(&self) {
        let (status, reason) = self.guest.health();
        let reason = String::from_utf8_lossy(&reason);
        self.turns().asked.retain(|asked| *asked != Urgent::Health);
        self.said.outbox.send(&Frame::HealthResult { status, reason: &reason });
    }

    /// Ends what runs, then the plugin, then the process. The agent has the deadline.
    fn stop(&'static self) -> ! {
        self.cancel_all();
        let mut turns = self.turns();
        while !turns.running.is_empty() {
            turns = self.quiet.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        drop(turns);
        let (status, message) = self.guest.stop();
        if status != Status::Done {
            eprintln!("the plugin's stop: {}", String::from_utf8_lossy(&message));
        }
        self.said.outbox.send(&Frame::Stopped);
        self.said.outbox.flush();
        std::process::exit(0)
    }

    fn cancel_all(&'static self) {
        let mut turns = self.turns();
        turns.stopping = true;
        let waiting = std::mem::take(&mut turns.calls);
        let running = turns.running.clone();
        drop(turns);
        waiting.iter().for_each(|job| self.settle(Due::NotBegun(job.id)));
        running.into_iter().for_each(|id| self.guest.cancel(id));
    }

    /// The agent is gone. Nothing outlives its owner: the plugin gets a short time to stop, then
    /// the process ends with all that it has started.
    fn orphaned(&'static self) -> ! {
        self.said.outbox.close();
        let (done, stopped) = sync_channel(1);
        let stop = move || {
            self.cancel_all();
            self.guest.stop();
            let _ = done.send(());
        };
        if self.spawn("stop", stop).is_ok() {
            let _ = stopped.recv_timeout(ORPHAN_STOP);
        }
        let me = rustix::process::getpid();
        if rustix::process::getpgrp() == me {
            let _ = rustix::process::kill_current_process_group(Signal::KILL);
        }
        std::process::exit(0)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the plugin says, on its way to the agent.
struct Said {
    directory: PathBuf,
    outbox: Outbox,
    blobs: Mutex<Blobs>,
    /// Of the calls that run and are traced.
    traces: Mutex<HashMap<u64, Box<str>>>,
}

type BlobAnswer = Result<(String, u64), String>;

/// Requests that wait for their answer.
#[derive(Default)]
struct Blobs {
    last: u64,
    waiting: HashMap<u64, SyncSender<BlobAnswer>>,
}

impl Said {
    fn ask_blob(&self, send: impl FnOnce(u64) -> bool) -> BlobAnswer {
        let (answer, answered) = sync_channel(1);
        let mut blobs = self.blobs();
        blobs.last += 1;
        let request = blobs.last;
        blobs.waiting.insert(request, answer);
        drop(blobs);
        if !send(request) {
            self.blobs().waiting.remove(&request);
            return Err("the path is too long".into());
        }
        answered.recv().unwrap_or_else(|_| Err("the agent is gone".into()))
    }

    fn blob_answered(&self, request: u64, answer: BlobAnswer) {
        if let Some(waiting) = self.blobs().waiting.remove(&request) {
            // Its thread waits, or has gone; both are fine.
            let _ = waiting.try_send(answer);
        }
    }

    fn traces(&self) -> MutexGuard<'_, HashMap<u64, Box<str>>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for Said {
    fn directory(&self) -> &Path {
        &self.directory
    }

    fn telemetry(&self, record: &[u8]) {
        self.outbox.record(record);
    }

    fn log(&self, call: u64, stream: &str, bytes: &[u8]) {
        self.outbox.log(call, stream, bytes);
    }

    fn trace(&self, call: u64) -> Option<String> {
        self.traces().get(&call).map(ToString::to_string)
    }

    fn put_blob(&self, file: &Path) -> Result<BlobRef, String> {
        let path = file.as_os_str().as_encoded_bytes();
        self.ask_blob(|request| self.outbox.send(&Frame::PutBlob { request, path }))
            .map(|(digest, size)| BlobRef { digest, size })
    }

    fn get_blob(&self, digest: &str, to: &Path) -> Result<u64, String> {
        let path = to.as_os_str().as_encoded_bytes();
        self.ask_blob(|request| self.outbox.send(&Frame::GetBlob { request, digest, path }))
            .map(|(_, size)| size)
    }
}
