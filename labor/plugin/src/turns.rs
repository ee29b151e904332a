use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::frame::{Decoder, Frame};
use crate::pace::Pace;

/// Most calls that wait for their turn; the agent, which admits by concurrency, sends far fewer.
const MOST_WAITING: usize = 4096;

/// What the threads of a host share: who reads, what waits, what runs.
///
/// One thread at a time reads the socket. It runs the call that it has read itself, after it has
/// made another thread the reader, or without that where calls are short (see [`Pace`]): a call
/// takes no wake-up between threads.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Here while nobody reads.
    pub(crate) input: Option<Input>,
    /// Threads that wait for a turn.
    pub(crate) idle: usize,
    /// All threads.
    pub(crate) threads: usize,
    /// Calls that wait, in order.
    pub(crate) calls: VecDeque<Job>,
    /// Goes before calls and beside their concurrency.
    pub(crate) urgent: VecDeque<Urgent>,
    /// Asked and not yet done: what is asked again meanwhile has the same answer.
    pub(crate) asked: Vec<Urgent>,
    /// Calls that run.
    pub(crate) running: BTreeSet<u64>,
    /// No call begins any more.
    pub(crate) stopping: bool,
    pub(crate) pace: Pace,
}

/// A call that waits.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) cast: bool,
    /// Empty where nobody traces it.
    pub(crate) trace: Box<str>,
    pub(crate) method: Box<str>,
    pub(crate) payload: Box<[u8]>,
}

/// What an agent asks beside calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgent {
    Health,
    Stop,
}

/// What is to be done at once about frames that were read, without the lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Tell the plugin that this call, which runs, is cancelled.
    Cancel(u64),
    /// Answer that this call was cancelled before it began.
    NotBegun(u64),
    /// Answer that too many wait.
    Refused(u64),
    /// Logs may flow.
    Credit(usize),
    /// A blob's answer: digest and size, or a message.
    Blob(u64, Result<(String, u64), String>),
    /// The agent said what only a host says, or nonsense.
    Broken(String),
}

impl Turns {
    pub(crate) fn new(input: Input) -> Self {
        Self {
            input: Some(input),
            idle: 0,
            threads: 0,
            calls: VecDeque::new(),
            urgent: VecDeque::new(),
            asked: Vec::new(),
            running: BTreeSet::new(),
            stopping: false,
            pace: Pace::default(),
        }
    }

    /// Whether a thread without work would find some.
    pub(crate) fn work_waits(&self, concurrency: usize) -> bool {
        self.input.is_some() || !self.urgent.is_empty() || self.call_waits(concurrency)
    }

    /// Whether a call waits that may begin.
    pub(crate) fn call_waits(&self, concurrency: usize) -> bool {
        !self.calls.is_empty() && self.running.len() < concurrency
    }

    /// Begins the next call, if one may begin.
    pub(crate) fn begin(&mut self, concurrency: usize) -> Option<Job> {
        if self.running.len() >= concurrency {
            return None;
        }
        let job = self.calls.pop_front()?;
        self.running.insert(job.id);
        Some(job)
    }

    /// Takes in every whole frame that has been read.
    pub(crate) fn take_in(&mut self, decoder: &mut Decoder) -> Vec<Due> {
        let mut due = Vec::new();
        loop {
            match decoder.next() {
                Ok(Some(frame)) => due.extend(self.take_frame(frame)),
                Ok(None) => return due,
                Err(error) => {
                    due.push(Due::Broken(error.to_string()));
                    return due;
                }
            }
        }
    }

    fn take_frame(&mut self, frame: Frame<'_>) -> Option<Due> {
        match frame {
            Frame::Call { id, .. } if self.stopping => return Some(Due::NotBegun(id)),
            Frame::Call { id, .. } if self.calls.len() >= MOST_WAITING => return Some(Due::Refused(id)),
            Frame::Call { id, cast, trace, method, payload } => {
                let (trace, method, payload) = (trace.into(), method.into(), payload.into());
                self.calls.push_back(Job { id, cast, trace, method, payload });
            }
            Frame::Cancel { id } if self.running.contains(&id) => return Some(Due::Cancel(id)),
            Frame::Cancel { id } => {
                let place = self.calls.iter().position(|job| job.id == id)?;
                self.calls.remove(place);
                return Some(Due::NotBegun(id));
            }
            Frame::Credit { bytes } => return Some(Due::Credit(bytes as usize)),
            Frame::BlobAnswer { request, good, text, size } => {
                let answer = if good { Ok((text.to_owned(), size)) } else { Err(text.to_owned()) };
                return Some(Due::Blob(request, answer));
            }
            Frame::Health => self.ask(Urgent::Health),
            Frame::Stop => self.ask(Urgent::Stop),
            Frame::Hello { .. }
            | Frame::StartFailed { .. }
            | Frame::Result { .. }
            | Frame::Telemetry { .. }
            | Frame::Log { .. }
            | Frame::PutBlob { .. }
            | Frame::GetBlob { .. }
            | Frame::HealthResult { .. }
            | Frame::Stopped => return Some(Due::Broken("a frame that only a host sends".into())),
        }
        None
    }

    fn ask(&mut self, urgent: Urgent) {
        if !self.asked.contains(&urgent) {
            self.asked.push(urgent);
            self.urgent.push_back(urgent);
        }
    }
}

/// The host's end of the socket, to read.
#[derive(Debug)]
pub(crate) struct Input {
    socket: UnixStream,
    pub(crate) decoder: Decoder,
    space: Box<[u8]>,
}

impl Input {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::new(), space: vec![0; 64 * 1024].into() }
    }

    /// Waits for bytes, for so long without sleeping; false at the end of the connection.
    pub(crate) fn read(&mut self, spin: Duration) -> bool {
        let until = (!spin.is_zero()).then(|| Instant::now() + spin);
        while until.is_some_and(|until| Instant::now() < until) {
            let now = RecvFlags::DONTWAIT;
            match rustix::net::recv(&self.socket, &mut *self.space, now) {
                // Others on this processor may be who is waited for.
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Ok((count, _)) if count > 0 => {
                    self.decoder.push(&self.space[..count]);
                    return true;
                }
                // The end, or an error, comes again below.
                _ => break,
            }
        }
        loop {
            match self.socket.read(&mut self.space) {
                Ok(0) => return false,
                Ok(count) => {
                    self.decoder.push(&self.space[..count]);
                    return true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}
