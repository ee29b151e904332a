//! One attachment of a labor: its open calls and what waits to be sent.

mod lanes;
mod tally;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lanes::NotQueued;
pub(crate) use lanes::{LaneStream, Lanes};
use overseer_protocol::proto::{self, Call, CallResult, Cancel, Order, call_result, order};
use overseer_protocol::{Attempt, CallErrorCode, Cause, INLINE_PAYLOAD, SessionId, TaskId, TraceContext};
use parking_lot::Mutex;
pub(crate) use tally::{Answered, Answers};
use tokio::sync::{oneshot, watch};
use tonic::Status;

use crate::call::{Bound, CallError, CallOptions};
use crate::core::Life;
use crate::payload::{Kept, Payloads};
use crate::trace::{FleetTracer, InFlight};

/// Most calls that one session has open.
pub(crate) const MAX_CALLS: usize = 8192;
/// A plain call is tried once.
pub(crate) const ONLY: Attempt = Attempt(1);
/// How long after its deadlines a call's answer may still be on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// What a labor answered: bytes, or a blob that holds them and goes with this.
#[derive(Debug)]
pub(crate) enum Answer {
    Inline(Bytes),
    Blob(Kept),
}

pub(crate) type Reply = oneshot::Sender<Result<Answer, CallError>>;

struct Pending {
    reply: Option<Reply>,
    /// No answer can come after this.
    expires: Option<Instant>,
    waits: Duration,
    trace: Option<Box<InFlight>>,
}

/// What a call carries.
pub(crate) enum Body {
    Inline(Bytes),
    Blob(String),
}

impl Body {
    /// Payload and blob as a call has them.
    fn into_fields(self) -> (Bytes, String) {
        match self {
            Self::Inline(bytes) => (bytes, String::new()),
            Self::Blob(digest) => (Bytes::new(), digest),
        }
    }
}

/// An attempt of a stored task.
pub(crate) struct TaskCall {
    pub(crate) task: TaskId,
    pub(crate) attempt: Attempt,
    pub(crate) method: String,
    pub(crate) body: Body,
    pub(crate) run: Option<Duration>,
    pub(crate) trace: Option<TraceContext>,
}

/// One attachment of a labor.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) life: Life,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) task_prefix: u64,
    /// Declared concurrency of the running release.
    pub(crate) concurrency: AtomicU32,
    /// What the release has answered that runs.
    pub(crate) answers: Answers,
    /// Shared by all sessions of a labor, so that no call id comes twice.
    next_call: Arc<AtomicU64>,
    open_calls: AtomicUsize,
    /// Attempts of tasks that the labor has and has not answered yet.
    open_tasks: AtomicUsize,
    calls: Mutex<Calls>,
    tracer: Option<FleetTracer>,
    /// When the newest certificate of the labor runs out, and the session with it.
    pub(crate) valid_until: watch::Sender<SystemTime>,
}

enum Calls {
    Open(HashMap<u64, Pending>),
    Closed(Cause),
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        life: Life,
        task_prefix: u64,
        next_call: Arc<AtomicU64>,
        valid_until: SystemTime,
        answers: Answers,
        tracer: Option<FleetTracer>,
    ) -> Self {
        Self {
            id,
            life,
            lanes: Arc::default(),
            task_prefix,
            concurrency: AtomicU32::new(1),
            answers,
            next_call,
            open_calls: AtomicUsize::new(0),
            open_tasks: AtomicUsize::new(0),
            calls: Mutex::new(Calls::Open(HashMap::new())),
            tracer,
            valid_until: watch::Sender::new(valid_until),
        }
    }

    /// Sends a control order.
    pub(crate) fn order(&self, kind: order::Kind) {
        self.lanes.control(Order { kind: Some(kind) });
    }

    /// Open calls and tasks for each place in the plugin, in thousandths: what "least loaded" compares.
    pub(crate) fn load(&self) -> usize {
        let places = self.concurrency.load(Ordering::Relaxed).max(1) as usize;
        self.open() * 1000 / places
    }

    /// Calls without an answer yet.
    pub(crate) fn open_calls(&self) -> usize {
        self.open_calls.load(Ordering::Relaxed)
    }

    /// Calls and attempts of tasks without an answer yet.
    pub(crate) fn open(&self) -> usize {
        self.open_calls() + self.open_tasks.load(Ordering::Relaxed)
    }

    /// The labor says what attempts it has: all that a session before this one has given it.
    pub(crate) fn holds_tasks(&self, attempts: usize) {
        self.open_tasks.store(attempts, Ordering::Relaxed);
    }

    /// The labor has answered an attempt.
    pub(crate) fn task_answered(&self) {
        // It may say the same answer again.
        let fewer = |open: usize| open.checked_sub(1);
        let _ = self.open_tasks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// Sends a call; `reply` gets exactly one answer.
    ///
    /// # Errors
    /// Closed or full; nothing was sent, and `reply` is dropped.
    pub(crate) fn begin(
        &self,
        method: &str,
        body: Body,
        options: CallOptions,
        reply: Reply,
    ) -> Result<u64, CallError> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let tracer = self.tracer.as_ref().zip(options.trace);
        let trace = tracer.and_then(|(tracer, parent)| tracer.call(parent, self.life.labor, method));
        let options = CallOptions { trace: trace.as_ref().map(|t| t.run()).or(options.trace), ..options };
        let expires = options.run.map(|run| options.queue.saturating_add(run).saturating_add(MARGIN));
        let pending = Pending {
            reply: Some(reply),
            expires: expires.and_then(|e| Instant::now().checked_add(e)),
            waits: expires.unwrap_or_default(),
            trace,
        };
        // Its answer may come as soon as it is queued.
        match &mut *self.calls.lock() {
            Calls::Open(open) if open.len() < MAX_CALLS => {
                open.insert(id, pending);
                self.open_calls.store(open.len(), Ordering::Relaxed);
            }
            Calls::Open(_) => return Err(self.overloaded(Bound::Calls(MAX_CALLS))),
            Calls::Closed(cause) => return Err(self.lost(cause.clone())),
        }
        self.queue(id, method, body, options, false).inspect_err(|_| drop(self.take(id)))?;
        Ok(id)
    }

    /// Sends a message that has no answer.
    ///
    /// # Errors
    /// Closed, full or too large for one message; nothing was sent.
    pub(crate) fn cast(&self, method: &str, payload: Bytes) -> Result<(), CallError> {
        if payload.len() > INLINE_PAYLOAD {
            return Err(CallError::TooLarge { size: payload.len(), limit: INLINE_PAYLOAD });
        }
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        self.queue(id, method, Body::Inline(payload), CallOptions::default(), true)
    }

    /// Sends an attempt of a stored task. Its answer comes by its task and attempt, over this
    /// session or a later one.
    ///
    /// # Errors
    /// Closed or full; nothing was sent.
    pub(crate) fn send_task(&self, task: TaskCall) -> Result<(), CallError> {
        let (payload, payload_blob) = task.body.into_fields();
        self.send(Call {
            id: self.next_call.fetch_add(1, Ordering::Relaxed),
            method: task.method,
            payload,
            payload_blob,
            // It waits here, not there.
            queue_ms: 0,
            run_ms: task.run.map_or(0, millis),
            task: Bytes::copy_from_slice(&task.task.to_bytes()),
            attempt: task.attempt.0,
            cast: false,
            traceparent: traceparent(task.trace),
        })?;
        self.open_tasks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn queue(
        &self,
        id: u64,
        method: &str,
        body: Body,
        options: CallOptions,
        cast: bool,
    ) -> Result<(), CallError> {
        let (payload, payload_blob) = body.into_fields();
        self.send(Call {
            id,
            method: method.to_owned(),
            payload,
            payload_blob,
            queue_ms: millis(options.queue),
            run_ms: options.run.map_or(0, millis),
            task: Bytes::new(),
            attempt: ONLY.0,
            cast,
            traceparent: traceparent(options.trace),
        })
    }

    fn send(&self, call: Call) -> Result<(), CallError> {
        let size = call.payload.len() + call.method.len() + 64;
        self.lanes.data(size, Order { kind: Some(order::Kind::Call(call)) }).map_err(|why| match why {
            NotQueued::Full(bound) => self.overloaded(bound),
            NotQueued::Closed => match &*self.calls.lock() {
                Calls::Closed(cause) => self.lost(cause.clone()),
                Calls::Open(_) => self.lost(Cause::ConnectionLost),
            },
        })
    }

    /// Whose logs a call writes.
    pub(crate) fn task_of(&self, call: u64) -> TaskId {
        TaskId::of_call(self.task_prefix, call)
    }

    /// The caller is gone: the plugin is told, and the answer is not waited for.
    pub(crate) fn abandon(&self, call: u64) {
        if self.take(call).is_some() && !self.lanes.withdraw(call) {
            self.order(order::Kind::Cancel(Cancel { id: call }));
        }
    }

    /// The caller wants the plugin to stop; the answer is still waited for.
    pub(crate) fn cancel(&self, call: u64) {
        if !self.lanes.withdraw(call) {
            self.order(order::Kind::Cancel(Cancel { id: call }));
        } else if let Some(reply) = self.take(call) {
            let message = "cancelled before it ran".to_owned();
            let _ =
                reply.send(Err(CallError::Answered { code: CallErrorCode::Cancelled, message, cause: None }));
        }
    }

    /// An answer came. One that nobody waits for is dropped.
    pub(crate) fn finish(&self, result: CallResult, payloads: &Arc<Payloads>) {
        let (reply, trace) = self.pending(result.id).map_or((None, None), |p| (p.reply, p.trace));
        if let Some(trace) = trace {
            trace.answered(&result);
        }
        let answer = match result.outcome {
            Some(call_result::Outcome::Ok(bytes)) => Ok(Answer::Inline(bytes)),
            Some(call_result::Outcome::OkBlob(digest)) => match payloads.accept(&digest) {
                Some(kept) => Ok(Answer::Blob(kept)),
                None => Err(CallError::Blobs("the labor announced a result that it has not sent".into())),
            },
            Some(call_result::Outcome::Failure(failure)) => Err(answered(failure)),
            None => {
                Err(CallError::Codec { what: "result", reason: "the labor sent an empty outcome".into() })
            }
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }

    fn take(&self, call: u64) -> Option<Reply> {
        self.pending(call)?.reply
    }

    fn pending(&self, call: u64) -> Option<Pending> {
        match &mut *self.calls.lock() {
            Calls::Open(open) => {
                let pending = open.remove(&call);
                self.open_calls.store(open.len(), Ordering::Relaxed);
                pending
            }
            Calls::Closed(_) => None,
        }
    }

    /// Ends the session: every open call fails now, and the stream ends with `status`.
    pub(crate) fn close(&self, cause: Cause, status: Option<Status>) {
        let open = match &mut *self.calls.lock() {
            Calls::Closed(_) => HashMap::new(),
            calls => match std::mem::replace(calls, Calls::Closed(cause.clone())) {
                Calls::Open(open) => open,
                Calls::Closed(_) => HashMap::new(),
            },
        };
        self.open_calls.store(0, Ordering::Relaxed);
        self.lanes.close(status);
        for pending in open.into_values() {
            if let Some(reply) = pending.reply {
                let _ = reply.send(Err(self.lost(cause.clone())));
            }
        }
    }

    /// Fails the calls that should have been answered long ago: a labor that breaks its word
    /// on deadlines leaves no caller waiting.
    pub(crate) fn sweep(&self, now: Instant) {
        let late: Vec<(u64, Duration)> = match &*self.calls.lock() {
            Calls::Open(open) => {
                let late = open.iter().filter(|(_, p)| p.expires.is_some_and(|e| e <= now));
                late.map(|(id, p)| (*id, p.waits)).collect()
            }
            Calls::Closed(_) => Vec::new(),
        };
        for (id, after) in late {
            if let Some(reply) = self.take(id) {
                self.cancel(id);
                let _ = reply.send(Err(CallError::NoAnswer { after }));
            }
        }
    }

    fn overloaded(&self, bound: Bound) -> CallError {
        CallError::Overloaded { labor: self.life.labor, bound }
    }

    fn lost(&self, cause: Cause) -> CallError {
        CallError::LaborLost { labor: self.life.labor, cause }
    }
}

fn traceparent(trace: Option<TraceContext>) -> String {
    trace.map_or_else(String::new, |trace| trace.to_string())
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn answered(failure: proto::CallFailure) -> CallError {
    CallError::Answered {
        code: CallErrorCode::from_wire(failure.code),
        message: failure.message,
        cause: (!failure.cause.is_empty()).then(|| Cause::from_bytes(&failure.cause)),
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::{Generation, LaborId};

    use super::*;

    fn session() -> Session {
        let life = Life { labor: LaborId::new(1, 1), generation: Generation::FIRST };
        Session::new(SessionId(1), life, 7, Arc::default(), SystemTime::now(), Answers::default(), None)
    }

    fn call(session: &Session) -> (u64, oneshot::Receiver<Result<Answer, CallError>>) {
        let (reply, answer) = oneshot::channel();
        let body = Body::Inline(Bytes::new());
        (session.begin("m", body, CallOptions::default(), reply).unwrap(), answer)
    }

    #[tokio::test]
    async fn each_call_is_answered_once_also_when_the_session_closes() {
        let directory = tempfile::tempdir().unwrap();
        let payloads = Arc::new(Payloads::open(directory.path(), Arc::default()).await.unwrap());
        let session = session();
        let (one, mut answer) = call(&session);
        let (_, mut lost) = call(&session);
        let result = CallResult {
            id: one,
            outcome: Some(call_result::Outcome::Ok(Bytes::from("x"))),
            ..Default::default()
        };
        session.finish(result.clone(), &payloads);
        session.finish(result, &payloads);
        assert!(matches!(answer.try_recv().unwrap(), Ok(Answer::Inline(b)) if b == "x"));
        session.close(Cause::ConnectionLost, None);
        session.close(Cause::Asked, None);
        let lost = lost.try_recv().unwrap();
        assert!(matches!(lost, Err(CallError::LaborLost { cause: Cause::ConnectionLost, .. })), "{lost:?}");
        let body = Body::Inline(Bytes::new());
        let (reply, _answer) = oneshot::channel();
        assert!(session.begin("m", body, CallOptions::default(), reply).is_err());
    }

    #[test]
    fn a_call_that_is_given_up_before_it_goes_never_goes() {
        let session = session();
        let (dropped, _) = call(&session);
        let (cancelled, mut answer) = call(&session);
        session.abandon(dropped);
        session.cancel(cancelled);
        let answer = answer.try_recv().unwrap();
        let Err(CallError::Answered { code, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(code, CallErrorCode::Cancelled);
        assert!(!session.lanes.withdraw(dropped) && !session.lanes.withdraw(cancelled));
    }

    #[test]
    fn a_session_takes_no_more_calls_than_its_bound() {
        let session = session();
        let answers: Vec<_> = (0..MAX_CALLS).map(|_| call(&session)).collect();
        let (reply, _answer) = oneshot::channel();
        let refused = session.begin("m", Body::Inline(Bytes::new()), CallOptions::default(), reply);
        assert!(matches!(refused, Err(CallError::Overloaded { .. })));
        session.abandon(answers[0].0);
        call(&session);
    }

    #[test]
    fn a_labor_that_never_answers_leaves_no_caller_waiting() {
        let session = session();
        let (_, mut answer) = call(&session);
        session.sweep(Instant::now());
        assert!(answer.try_recv().is_err());
        session.sweep(Instant::now() + Duration::from_secs(3600));
        assert!(matches!(answer.try_recv().unwrap(), Err(CallError::NoAnswer { .. })));
    }
}
