//! One supervised labor: its handle, its state, its history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use overseer_protocol::{
    Cause, Facts, Generation, INLINE_PAYLOAD, LaborId, LaborState, LogStream, MAX_PAYLOAD, ReleaseId, TaskId,
};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};

use crate::call::{CallError, CallOptions};
use crate::claims::millis;
use crate::clock;
use crate::history::HistoryEntry;
use crate::logs::Logs;
use crate::metrics::FleetMetrics;
use crate::pace::Pace;
use crate::payload::Payloads;
use crate::session::{Answer, Body, Session};

/// Entries of a labor's history that are kept; the oldest go.
pub const HISTORY: usize = 256;

/// Where a labor stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its life.
    pub generation: Generation,
    /// Its state.
    pub state: LaborState,
    /// Why it is in this state, where there is a reason.
    pub cause: Option<Cause>,
}

pub(crate) struct LaborShared {
    pub(crate) id: LaborId,
    pub(crate) invited: bool,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) session: RwLock<Option<Arc<Session>>>,
    pub(crate) history: Mutex<VecDeque<HistoryEntry>>,
    pub(crate) facts: RwLock<Option<Arc<Facts>>>,
    /// The newest authority that it has shown a certificate of, and in which life; kept only while
    /// the authority changes.
    pub(crate) shown: Mutex<Option<(Generation, String)>>,
    /// The next telemetry record that is expected, of which life.
    pub(crate) telemetry: Mutex<(Generation, u64)>,
    pub(crate) payloads: Arc<Payloads>,
    pub(crate) metrics: Arc<FleetMetrics>,
    /// Records that it said it has dropped in its present life.
    pub(crate) telemetry_dropped: AtomicU64,
    pub(crate) pace: Mutex<Pace>,
    /// Upper half of the task ids of its calls.
    pub(crate) task_prefix: u64,
    pub(crate) next_call: Arc<AtomicU64>,
    /// Lives whose node the adapter is being asked for, and whether their end has begun.
    pub(crate) asked_for: Mutex<BTreeMap<Generation, bool>>,
    /// Stored tasks that it was given, the newest of them: it may write their logs.
    assigned: Mutex<BTreeSet<TaskId>>,
    /// Open streams of log bytes from each life.
    pushing: watch::Sender<BTreeMap<Generation, usize>>,
}

/// Stored tasks of one labor that are remembered; others are looked up in the store.
const ASSIGNED: usize = 4096;
/// How long the last log bytes of a node that has ended may be on their way.
const LAST_BYTES: Duration = Duration::from_secs(10);

impl LaborShared {
    pub(crate) fn new(
        id: LaborId,
        invited: bool,
        task_prefix: u64,
        payloads: Arc<Payloads>,
        metrics: Arc<FleetMetrics>,
    ) -> Self {
        let status = Status { generation: Generation::FIRST, state: LaborState::Requested, cause: None };
        Self {
            id,
            invited,
            status: watch::Sender::new(status),
            session: RwLock::default(),
            history: Mutex::default(),
            facts: RwLock::default(),
            shown: Mutex::default(),
            telemetry: Mutex::new((Generation::FIRST, 0)),
            payloads,
            metrics,
            telemetry_dropped: AtomicU64::new(0),
            pace: Mutex::default(),
            task_prefix,
            // An agent may have calls of the server before this one.
            next_call: Arc::new(AtomicU64::new(crate::random::u64() >> 2)),
            asked_for: Mutex::default(),
            assigned: Mutex::default(),
            pushing: watch::Sender::default(),
        }
    }

    /// Notes that a life sends log bytes, until what is returned is dropped.
    pub(crate) fn pushes(self: &Arc<Self>, generation: Generation) -> Pushing {
        self.pushing.send_modify(|open| *open.entry(generation).or_default() += 1);
        Pushing { labor: Arc::clone(self), generation }
    }

    /// Ends the logs of a life that is over, once its last bytes are in: who follows one is told
    /// its end though the node could not say it.
    pub(crate) fn end_logs(self: Arc<Self>, generation: Generation, logs: Arc<Logs>) {
        // Calls of the lives to come have higher numbers.
        let (host, calls) = (TaskId::of_host(self.id, generation), self.next_call.load(Ordering::Relaxed));
        let assigned = std::mem::take(&mut *self.assigned.lock());
        tokio::spawn(async move {
            let mut pushing = self.pushing.subscribe();
            let quiet = pushing.wait_for(|open| !open.contains_key(&generation));
            // A connection that hangs does not keep the log open for ever.
            let _ = tokio::time::timeout(LAST_BYTES, quiet).await;
            let prefix = self.task_prefix;
            let of_call = |task: TaskId| (task.0 >> 64) as u64 == prefix && (task.0 as u64) < calls;
            logs.end(|task| task == host || of_call(task) || assigned.contains(&task)).await;
        });
    }

    /// Notes that it was given a stored task.
    pub(crate) fn assign(&self, task: TaskId) {
        let mut assigned = self.assigned.lock();
        assigned.insert(task);
        if assigned.len() > ASSIGNED {
            assigned.pop_first();
        }
    }

    /// Whether this labor may write logs of that task, as far as is known without asking the store.
    pub(crate) fn owns(&self, task: TaskId) -> bool {
        let generation = self.status.borrow().generation;
        (task.0 >> 64) as u64 == self.task_prefix
            || task == TaskId::of_host(self.id, generation)
            || self.assigned.lock().contains(&task)
    }

    pub(crate) fn enter(
        &self,
        generation: Generation,
        state: LaborState,
        cause: Option<Cause>,
    ) -> HistoryEntry {
        let at_ms = millis(clock::now());
        let entry = HistoryEntry { labor: self.id, generation, state, cause: cause.clone(), at_ms };
        let mut history = self.history.lock();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(entry.clone());
        drop(history);
        self.status.send_replace(Status { generation, state, cause });
        entry
    }
}

/// One open stream of log bytes.
pub(crate) struct Pushing {
    labor: Arc<LaborShared>,
    generation: Generation,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.labor.pushing.send_modify(|open| {
            if let Some(n) = open.get_mut(&self.generation) {
                *n -= 1;
                if *n == 0 {
                    open.remove(&self.generation);
                }
            }
        });
    }
}

/// A handle of one supervised labor. It stays good over restarts: the next life has the same
/// handle. Cheap to clone.
#[derive(Clone)]
pub struct Labor {
    pub(crate) shared: Arc<LaborShared>,
}

/// A labor ended for good before it was ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("labor {labor} ended before it was ready: {cause}")]
pub struct EndedEarly {
    /// Which.
    pub labor: LaborId,
    /// Why.
    pub cause: Cause,
}

impl EndedEarly {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "labor.ended_early"
    }
}

impl Labor {
    /// Whether a task's log is, or may be, of its making: of a call of it, of its plugin host, or
    /// of one of the newest stored tasks that it was given.
    pub fn writes(&self, task: TaskId) -> bool {
        self.shared.owns(task)
    }

    /// Its id.
    pub fn id(&self) -> LaborId {
        self.shared.id
    }

    /// Whether it is on a machine that was [invited](crate::FleetHandle::invite): no adapter has made
    /// it, and it does not count for how many labors there should be.
    pub fn is_invited(&self) -> bool {
        self.shared.invited
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// What its agent said of its machine when it last attached.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.shared.facts.read().clone()
    }

    /// What takes its calls now; none where it is empty, or takes none.
    pub fn release(&self) -> Option<ReleaseId> {
        self.shared.session.read().as_ref().and_then(|session| session.answers.release())
    }

    /// Calls and attempts of tasks that it has and has not answered yet.
    pub fn open_calls(&self) -> usize {
        self.shared.session.read().as_ref().map_or(0, |session| session.open())
    }

    /// Its states so far, oldest first, the last [`HISTORY`] of them.
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.shared.history.lock().iter().cloned().collect()
    }

    /// Waits until it is paired and takes calls, over restarts if need be.
    ///
    /// # Errors
    /// It has ended for good.
    pub async fn ready(&self) -> Result<(), EndedEarly> {
        match self.wait_for(|s| matches!(s.state, LaborState::Ready | LaborState::Terminated)).await {
            Status { state: LaborState::Ready, .. } => Ok(()),
            status => Err(EndedEarly { labor: self.id(), cause: status.cause.unwrap_or(Cause::Asked) }),
        }
    }

    /// Waits until it has ended for good, and says why.
    pub async fn terminated(&self) -> Cause {
        self.wait_for(|s| s.state == LaborState::Terminated).await.cause.unwrap_or(Cause::Asked)
    }

    /// Waits for a status that `good` likes.
    pub async fn wait_for(&self, good: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.shared.status.subscribe();
        match status.wait_for(good).await {
            Ok(status) => status.clone(),
            // The sender lives in `self`.
            Err(_) => self.status(),
        }
    }

    /// Calls a typed method of the release with the default deadlines: JSON both ways.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call<In, Out>(&self, method: &str, argument: &In) -> Result<Out, CallError>
    where
        In: Serialize + ?Sized,
        Out: DeserializeOwned,
    {
        self.call_with(method, argument, CallOptions::default()).await
    }

    /// As [`Labor::call`], with these deadlines.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call_with<In, Out>(
        &self,
        method: &str,
        argument: &In,
        options: CallOptions,
    ) -> Result<Out, CallError>
    where
        In: Serialize + ?Sized,
        Out: DeserializeOwned,
    {
        decode(&self.call_bytes(method, encode(argument)?, options).await?)
    }

    /// Calls a method with bytes, up to 64 MiB both ways. Dropping the future cancels the call.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call_bytes(
        &self,
        method: &str,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        self.start_call(method, payload, options).await?.answer().await
    }

    /// Begins a call and returns once it is on its way.
    ///
    /// # Errors
    /// [`CallError::NotReady`], [`CallError::Overloaded`], [`CallError::TooLarge`],
    /// [`CallError::LaborLost`], [`CallError::Blobs`].
    pub async fn start_call(
        &self,
        method: &str,
        payload: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<OpenCall, CallError> {
        let metrics = &self.shared.metrics;
        let begun = match self.session() {
            Ok(session) => {
                let payloads = Arc::clone(&self.shared.payloads);
                begin(session, payloads, metrics, method, payload.into(), options).await
            }
            Err(error) => Err(error),
        };
        begun.inspect_err(|error| metrics.call_failed(error))
    }

    /// Sends a message that has no answer. It is lost when the labor is.
    ///
    /// # Errors
    /// As [`Labor::start_call`].
    pub async fn cast<In: Serialize + ?Sized>(&self, method: &str, argument: &In) -> Result<(), CallError> {
        let sent = self.session()?.cast(method, encode(argument)?.into());
        self.shared.metrics.cast(&sent);
        sent
    }

    fn session(&self) -> Result<Arc<Session>, CallError> {
        let session = self.shared.session.read().clone();
        session.ok_or_else(|| CallError::NotReady { labor: self.id(), state: self.status().state })
    }
}

impl fmt::Debug for Labor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        write!(f, "Labor({} {} {})", self.id(), status.generation, status.state)
    }
}

impl PartialEq for Labor {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

pub(crate) fn encode<In: Serialize + ?Sized>(argument: &In) -> Result<Vec<u8>, CallError> {
    overseer_plugin::codec::encode(argument)
        .map_err(|e| CallError::Codec { what: "argument", reason: e.message })
}

pub(crate) fn decode<Out: DeserializeOwned>(result: &[u8]) -> Result<Out, CallError> {
    overseer_plugin::codec::decode(result).map_err(|e| CallError::Codec { what: "result", reason: e.message })
}

pub(crate) async fn begin(
    session: Arc<Session>,
    payloads: Arc<Payloads>,
    metrics: &Arc<FleetMetrics>,
    method: &str,
    payload: Bytes,
    options: CallOptions,
) -> Result<OpenCall, CallError> {
    let (reply, answer) = oneshot::channel();
    let mut kept = None;
    let body = if payload.len() <= INLINE_PAYLOAD {
        Body::Inline(payload)
    } else if payload.len() <= MAX_PAYLOAD {
        let blob = payloads.keep(payload).await?;
        let digest = blob.digest().to_owned();
        kept = Some(blob);
        Body::Blob(digest)
    } else {
        return Err(CallError::TooLarge { size: payload.len(), limit: MAX_PAYLOAD });
    };
    let id = session.begin(method, body, options, reply)?;
    let guard = Guard { session, id, open: true, begun: Instant::now(), metrics: Arc::clone(metrics) };
    Ok(OpenCall { guard, answer, payloads, _kept: kept })
}

/// A call that is on its way. Dropping it cancels the call.
pub struct OpenCall {
    guard: Guard,
    answer: oneshot::Receiver<Result<Answer, CallError>>,
    payloads: Arc<Payloads>,
    /// A large payload stays as long as the labor may fetch it.
    _kept: Option<crate::payload::Kept>,
}

struct Guard {
    session: Arc<Session>,
    id: u64,
    open: bool,
    begun: Instant,
    metrics: Arc<FleetMetrics>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.open {
            self.metrics.calls.add("abandoned");
            self.session.abandon(self.id);
        }
    }
}

impl OpenCall {
    /// Whose logs the call writes.
    pub fn task(&self) -> TaskId {
        self.guard.session.task_of(self.guard.id)
    }

    /// The name of a log stream that the call writes.
    pub fn log(&self, stream: impl Into<String>) -> LogStream {
        LogStream { task: self.task(), attempt: crate::session::ONLY, stream: stream.into() }
    }

    /// The labor that has it.
    pub fn labor(&self) -> LaborId {
        self.guard.session.life.labor
    }

    /// Something that can cancel the call while its answer is awaited.
    pub fn canceller(&self) -> Canceller {
        Canceller { session: Arc::clone(&self.guard.session), id: self.guard.id }
    }

    /// The answer, once.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn answer(mut self) -> Result<Bytes, CallError> {
        let answer = (&mut self.answer).await;
        self.guard.open = false;
        let metrics = Arc::clone(&self.guard.metrics);
        metrics.call.observe(self.guard.begun.elapsed());
        let answer = self.taken(answer).await;
        match &answer {
            Ok(_) => metrics.calls.add("ok"),
            Err(error) => metrics.call_failed(error),
        }
        answer
    }

    async fn taken(
        &self,
        answer: Result<Result<Answer, CallError>, oneshot::error::RecvError>,
    ) -> Result<Bytes, CallError> {
        match answer {
            Ok(Ok(Answer::Inline(bytes))) => Ok(bytes),
            Ok(Ok(Answer::Blob(kept))) => self.payloads.read(&kept).await,
            Ok(Err(error)) => Err(error),
            // The session answers all its calls before it goes; this is for completeness.
            Err(_) => Err(CallError::LaborLost { labor: self.labor(), cause: Cause::ConnectionLost }),
        }
    }
}

/// Asks the plugin to stop working on a call; the call still gets its answer.
#[derive(Clone)]
pub struct Canceller {
    session: Arc<Session>,
    id: u64,
}

impl Canceller {
    /// Cancels. Fine when the call is over.
    pub fn cancel(&self) {
        self.session.cancel(self.id);
    }
}
