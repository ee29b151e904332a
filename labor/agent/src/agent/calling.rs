//! Calls and attempts of stored tasks: from the order to the host and back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use overseer_protocol::proto::{self, call_result};
use overseer_protocol::{
    Attempt, CallErrorCode, Cause, INLINE_PAYLOAD, LogStream, MAX_PAYLOAD, ReleaseId, TaskId,
};
use tokio::task::AbortHandle;

use super::{Agent, work};
use crate::calls::{Effect, Event, HostNumber, NewCall, Outcome};
use crate::host::Failure;

/// What the host needs to run a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Payload {
    method: String,
    cast: bool,
    trace: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Inline(Bytes),
    /// To be fetched first.
    Blob(String),
}

/// A call that the agent has.
#[derive(Debug)]
pub(super) struct Open {
    task: TaskId,
    attempt: Attempt,
    /// It outlives its session.
    stored: bool,
    /// Names of its log streams so far.
    streams: Vec<String>,
    method: String,
    cast: bool,
    /// Where it is traced.
    trace: String,
    /// When it came, and when it was given to the host; of a call that is traced.
    came: Option<Instant>,
    given: Option<Instant>,
    /// The host that it was given to, or is to be given to when its payload has come.
    host: HostNumber,
    /// What that runs.
    release: Option<ReleaseId>,
    pub(super) fetching: Option<AbortHandle>,
}

impl Open {
    /// Where it has been until now.
    fn spent(&self) -> Spent {
        let mut spent = Spent { host: self.host, release: self.release, ..Spent::default() };
        if let Some(came) = self.came {
            let now = Instant::now();
            let given = self.given.unwrap_or(now);
            spent.waited = given.saturating_duration_since(came);
            spent.ran = now.saturating_duration_since(given);
        }
        spent
    }
}

/// Where a call ran; and if it is traced, how long it waited here, and how long it was in the host.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Spent {
    /// 0: nowhere.
    host: HostNumber,
    /// What that ran.
    release: Option<ReleaseId>,
    waited: Duration,
    ran: Duration,
}

/// Whose answer it is, and how it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answered {
    pub(super) whose: Whose,
    pub(super) spent: Spent,
}

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Whose {
    Call(u64),
    Attempt(TaskId, Attempt),
}

impl Answered {
    pub(super) fn with(self, mut outcome: call_result::Outcome) -> proto::CallResult {
        if let (call_result::Outcome::Failure(failure), Some(release)) = (&mut outcome, self.spent.release) {
            failure.release = Bytes::copy_from_slice(&release.0);
        }
        let (id, task, attempt) = match self.whose {
            Whose::Call(id) => (id, Bytes::new(), 0),
            Whose::Attempt(task, attempt) => (0, Bytes::copy_from_slice(&task.to_bytes()), attempt.0),
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (waited_us, ran_us) = (micros(self.spent.waited), micros(self.spent.ran));
        let incarnation = self.spent.host;
        proto::CallResult { id, outcome: Some(outcome), task, attempt, waited_us, ran_us, incarnation }
    }
}

/// Log streams of one call.
const MAX_STREAMS: usize = 64;

impl Agent {
    pub(super) fn on_call(&mut self, call: proto::Call) {
        if self.open.contains_key(&call.id) {
            self.deferred.push(call);
            return;
        }
        let prefix = self.session.as_ref().map_or(0, |s| s.task_prefix);
        let (stored, attempt) = (TaskId::from_bytes(&call.task), Attempt(call.attempt));
        if let Some(task) = stored
            && !self.held.begin(task, attempt, call.id)
        {
            // The same attempt twice is one.
            return;
        }
        let open = Open {
            task: stored.unwrap_or_else(|| TaskId::of_call(prefix, call.id)),
            attempt,
            stored: stored.is_some(),
            streams: Vec::new(),
            method: String::new(),
            cast: call.cast,
            trace: String::new(),
            came: (!call.traceparent.is_empty()).then(Instant::now),
            given: None,
            host: 0,
            release: None,
            fetching: None,
        };
        self.open.insert(call.id, open);
        let limit = |ms: u32| (ms > 0).then(|| Duration::from_millis(u64::from(ms)));
        let what = match call.payload_blob.is_empty() {
            true => What::Inline(call.payload),
            false => What::Blob(call.payload_blob),
        };
        let bytes = call.method.len() + if let What::Inline(bytes) = &what { bytes.len() } else { 0 };
        self.calls_event(Event::Arrived(NewCall {
            id: call.id,
            queue: limit(call.queue_ms),
            run: limit(call.run_ms),
            cast: call.cast,
            stored: stored.is_some(),
            bytes,
            payload: Payload { method: call.method, cast: call.cast, trace: call.traceparent, what },
        }));
    }

    pub(super) fn on_cancel(&mut self, id: u64) {
        if let Some(at) = self.deferred.iter().position(|c| c.id == id) {
            let call = self.deferred.remove(at);
            if !call.cast {
                let message = "cancelled before it ran".to_owned();
                self.answer(id, Outcome::Failed { code: CallErrorCode::Cancelled, message, cause: None });
            }
            return;
        }
        self.calls_event(Event::Cancelled(id));
    }

    /// Tells the pure part, and does what it says.
    pub(super) fn calls_event(&mut self, event: Event<Payload, Bytes>) {
        let effects = self.calls.on_event(Instant::now(), event);
        for effect in effects {
            match effect {
                Effect::Run(id, payload) => self.run_call(id, payload),
                Effect::Stop(id) => self.stop_call(id),
                Effect::Answer(id, outcome) => self.answer(id, outcome),
                Effect::Over(id) => self.call_over(id),
                Effect::KillHost(host, cause) => {
                    tracing::warn!("the plugin host is ended: {cause}");
                    self.hosting.lives.kill(host, cause);
                }
                Effect::Idle(host) => {
                    if let Some(host) = self.hosting.lives.finished(host) {
                        self.work.spawn(work::stop(host));
                    }
                }
            }
        }
        self.spin.open(self.calls.running() + self.calls.waiting());
    }

    fn run_call(&mut self, id: u64, payload: Payload) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.host = self.hosting.incarnation;
        open.release = self.hosting.lives.get(open.host).map(|life| life.loaded.id);
        open.method = payload.method;
        open.trace = payload.trace;
        match payload.what {
            What::Inline(bytes) => self.give_to_host(id, bytes),
            What::Blob(digest) => {
                let fetching = self.work.spawn(work::fetch(self.bulk.clone(), id, digest));
                open.fetching = Some(fetching);
            }
        }
    }

    pub(super) fn give_to_host(&mut self, id: u64, payload: Bytes) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if !open.trace.is_empty() {
            open.given = Some(Instant::now());
        }
        match self.hosting.lives.get(open.host) {
            Some(life) => life.host.call(id, open.cast, &open.trace, &open.method, payload),
            // It has ended meanwhile, and its end answers the call.
            None => tracing::debug!("call {id} came too late for its host"),
        }
    }

    fn stop_call(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if let Some(fetching) = open.fetching.take() {
            fetching.abort();
            let failure = Failure::new(CallErrorCode::Cancelled, "cancelled before it ran");
            self.calls_event(Event::Finished(id, Err(failure)));
        } else if let Some(life) = self.hosting.lives.get(open.host) {
            life.host.cancel(id);
        }
    }

    fn call_over(&mut self, id: u64) {
        let Some(open) = self.open.remove(&id) else { return };
        if let Some(fetching) = open.fetching {
            fetching.abort();
        }
        for stream in open.streams {
            self.logs.end(&LogStream { task: open.task, attempt: open.attempt, stream });
        }
        if let Some(at) = self.deferred.iter().position(|c| c.id == id) {
            let call = self.deferred.remove(at);
            self.on_call(call);
        }
    }

    fn answer(&mut self, id: u64, outcome: Outcome<Bytes>) {
        let outcome = match outcome {
            Outcome::Done(bytes) if bytes.len() > MAX_PAYLOAD => {
                let message = format!(
                    "the result has {} bytes, allowed are {MAX_PAYLOAD}; put it as a blob or artifact",
                    bytes.len()
                );
                Outcome::Failed { code: CallErrorCode::TooLarge, message, cause: None }
            }
            outcome => outcome,
        };
        let open = self.open.get(&id);
        let spent = open.map(Open::spent).unwrap_or_default();
        match open.filter(|open| open.stored) {
            Some(open) => {
                let (task, attempt) = (open.task, open.attempt);
                let answered = Answered { whose: Whose::Attempt(task, attempt), spent };
                // Kept until the Overseer has stored it.
                if self.held.finish(task, attempt, outcome.clone(), spent) {
                    self.send_answer(answered, outcome);
                }
            }
            None => self.send_answer(Answered { whose: Whose::Call(id), spent }, outcome),
        }
    }

    /// Over the present session, if there is one.
    pub(super) fn send_answer(&mut self, whose: Answered, outcome: Outcome<Bytes>) {
        let Some(session) = &self.session else { return };
        let outcome = match outcome {
            Outcome::Done(bytes) if bytes.len() > INLINE_PAYLOAD => {
                self.putting += 1;
                self.work.spawn(work::put(self.bulk.clone(), session.number, whose, bytes));
                return;
            }
            Outcome::Done(bytes) => call_result::Outcome::Ok(bytes),
            Outcome::Failed { code, message, cause } => {
                call_result::Outcome::Failure(failure(code, message, cause.as_ref()))
            }
        };
        self.outbox.result(whose.with(outcome));
    }

    /// Bytes that the host wrote: for one call, or outside of any.
    pub(super) fn on_log(&mut self, host: HostNumber, call: Option<u64>, stream: String, data: &[u8]) {
        if !LogStream::good_name(&stream) {
            tracing::warn!("{stream:?} is no name for a log stream; use up to 64 of a-z A-Z 0-9 . _ -");
            return;
        }
        let open = call.and_then(|id| self.open.get_mut(&id));
        let name = match open {
            Some(open) => {
                if !open.streams.contains(&stream) {
                    if open.streams.len() >= MAX_STREAMS {
                        tracing::warn!("a call writes more than {MAX_STREAMS} log streams; {stream} is lost");
                        return;
                    }
                    open.streams.push(stream.clone());
                }
                LogStream { task: open.task, attempt: open.attempt, stream }
            }
            None => match self.hosting.lives.get_mut(host).and_then(|life| life.streams.open(stream)) {
                Some(name) => name,
                None => return,
            },
        };
        self.logs.append(&name, data);
    }
}

/// For the wire. The message is cut where it is longer than anyone reads.
pub(super) fn failure(code: CallErrorCode, message: String, cause: Option<&Cause>) -> proto::CallFailure {
    const MOST: usize = 64 << 10;
    let mut message = message;
    if message.len() > MOST {
        let mut end = MOST;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    proto::CallFailure {
        code: code as u32,
        message,
        cause: cause.map(Cause::to_bytes).unwrap_or_default().into(),
        ..proto::CallFailure::default()
    }
}
