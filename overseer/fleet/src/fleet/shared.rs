use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use overseer_protocol::proto::{CallResult, call_result};
use overseer_protocol::{Cause, FleetName, Generation, LaborId, LaborState, ReleaseId, SessionId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::commands::{Commands, Places};
use super::handler::HandlerPort;
use super::record_writer::RecordWriter;
use super::upgrade::Releases;
use crate::call::{CallError, CallOptions};
use crate::claims::millis;
use crate::clock;
use crate::condition::Condition;
use crate::control_plane::ControlPlane;
use crate::core::{Life, Options, Trust, UpgradeStatus};
use crate::history::{FleetEntry, UpgradeEntry};
use crate::labor::{Labor, LaborShared, OpenCall, begin};
use crate::logs::Logs;
use crate::metrics::{FleetMetrics, one};
use crate::payload::Payloads;
use crate::release::{KeptReleases, Release};
use crate::session::{Answered, Session};
use crate::tasks::Tasks;
use crate::telemetry::{Batch, SUBSCRIBER_BATCHES};
use crate::trace::FleetTracer;

/// Labors that have ended whose history can still be read; the oldest go.
const ENDED: usize = 1024;
/// Entries that a follower of the fleet's history may be behind before it loses the oldest.
const EVENTS: usize = 4096;
/// Calls that wait for a labor to become ready; more are refused.
const WAITING_CALLS: usize = 65_536;

/// What the actor, the gateway and the handles of one fleet share.
pub(crate) struct FleetShared {
    pub(crate) name: FleetName,
    pub(crate) options: Options,
    pub(crate) releases: Releases,
    pub(crate) kept: Arc<KeptReleases>,
    /// The upgrade that is on its way, or the last one.
    pub(crate) upgrade: Mutex<Option<watch::Sender<UpgradeStatus>>>,
    /// What releases have answered in sessions that are over, or that run another one now.
    answered: Mutex<HashMap<Option<ReleaseId>, Answered>>,
    pub(crate) unsigned: bool,
    pub(crate) labors: RwLock<HashMap<LaborId, Arc<LaborShared>>>,
    pub(crate) ended: Mutex<VecDeque<Arc<LaborShared>>>,
    pub(crate) sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    ready: RwLock<Vec<Arc<Session>>>,
    ready_changed: Notify,
    waiting: Arc<AtomicUsize>,
    /// Casts to the state of the callbacks that wait.
    pub(super) state_casts: Arc<AtomicUsize>,
    /// Places for calls of that state.
    pub(super) state_calls: Places,
    pub(super) commands: Commands,
    turn: AtomicUsize,
    pub(crate) telemetry: broadcast::Sender<Batch>,
    pub(crate) events: broadcast::Sender<FleetEntry>,
    pub(crate) handler: OnceLock<Arc<dyn HandlerPort>>,
    /// None only while the fleet starts.
    pub(crate) tasks: OnceLock<Arc<Tasks>>,
    pub(crate) payloads: Arc<Payloads>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metrics: Arc<FleetMetrics>,
    pub(crate) tracer: Option<FleetTracer>,
    /// None only while the fleet starts.
    pub(crate) records: OnceLock<Arc<RecordWriter>>,
    /// What can be written.
    pub(crate) condition: Arc<Condition>,
    /// Why the fleet has stopped, or is about to, where nobody has asked for that.
    pub(crate) stopped_by: OnceLock<Cause>,
    /// Cancelled when nothing of the fleet is left: all is stored, and its name is free.
    pub(crate) over: CancellationToken,
    /// Cancelled when the fleet is left: nothing of its labors is taken in any more.
    pub(crate) left: CancellationToken,
}

impl FleetShared {
    pub(crate) fn new(
        name: FleetName,
        options: Options,
        release: Option<Release>,
        unsigned: bool,
        plane: &ControlPlane,
    ) -> Self {
        Self {
            metrics: plane.counters().fleet(&name),
            tracer: plane.tracer().map(|tracer| FleetTracer::new(tracer.clone(), name.clone())),
            name,
            options,
            releases: Releases::new(release),
            kept: plane.releases(),
            upgrade: Mutex::default(),
            answered: Mutex::default(),
            unsigned,
            labors: RwLock::default(),
            ended: Mutex::default(),
            sessions: Mutex::default(),
            ready: RwLock::default(),
            ready_changed: Notify::new(),
            waiting: Arc::default(),
            state_casts: Arc::default(),
            state_calls: Places::default(),
            commands: Commands::default(),
            turn: AtomicUsize::new(0),
            telemetry: broadcast::Sender::new(SUBSCRIBER_BATCHES),
            events: broadcast::Sender::new(EVENTS),
            handler: OnceLock::new(),
            tasks: OnceLock::new(),
            payloads: plane.payloads(),
            logs: plane.logs(),
            condition: plane.condition(),
            records: OnceLock::new(),
            stopped_by: OnceLock::new(),
            over: CancellationToken::new(),
            left: CancellationToken::new(),
        }
    }

    pub(crate) fn labor(&self, id: LaborId) -> Option<Labor> {
        self.labors.read().get(&id).map(|shared| Labor { shared: Arc::clone(shared) })
    }

    /// A labor that lives or whose history is still kept.
    pub(crate) fn labor_or_ended(&self, id: LaborId) -> Option<Labor> {
        self.labor(id).or_else(|| {
            let ended = self.ended.lock();
            ended.iter().find(|l| l.id == id).map(|shared| Labor { shared: Arc::clone(shared) })
        })
    }

    /// The labor, if this is its present life.
    pub(crate) fn present(&self, id: LaborId, generation: Generation) -> Option<Arc<LaborShared>> {
        let labor = self.labors.read().get(&id).cloned()?;
        let present = labor.status.borrow().generation == generation;
        present.then_some(labor)
    }

    pub(crate) fn forget(&self, id: LaborId) {
        if let Some(labor) = self.labors.write().remove(&id) {
            let mut ended = self.ended.lock();
            if ended.len() == ENDED {
                ended.pop_front();
            }
            ended.push_back(labor);
        }
    }

    pub(crate) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions.lock().get(&id).cloned()
    }

    /// The newest session of a life.
    pub(crate) fn session_of(&self, life: Life) -> Option<Arc<Session>> {
        let open = self.labors.read().get(&life.labor).and_then(|labor| labor.session.read().clone());
        open.filter(|session| session.life == life).or_else(|| {
            // One that takes nothing new any more, such as one that drains.
            let sessions = self.sessions.lock();
            sessions.values().filter(|s| s.life == life).max_by_key(|s| s.id).cloned()
        })
    }

    /// A labor has a newer certificate: what it has open may go on until that runs out.
    pub(crate) fn extend_sessions(&self, life: Life, valid_until: SystemTime) {
        for session in self.sessions.lock().values().filter(|s| s.life == life) {
            session.valid_until.send_if_modified(|until| {
                let later = valid_until > *until;
                *until = valid_until.max(*until);
                later
            });
        }
    }

    pub(crate) fn open_for_calls(&self, id: SessionId) {
        let Some(session) = self.session(id) else { return };
        if let Some(labor) = self.labors.read().get(&session.life.labor) {
            *labor.session.write() = Some(Arc::clone(&session));
        }
        self.ready.write().push(session);
        self.ready_changed.notify_waiters();
    }

    /// A session that turned out to be closed gets no more calls of the fleet, though the actor
    /// may not have heard of its end yet.
    fn pass_by(&self, id: SessionId) {
        self.ready.write().retain(|s| s.id != id);
    }

    pub(crate) fn close_for_calls(&self, life: Life) {
        if let Some(labor) = self.labors.read().get(&life.labor) {
            *labor.session.write() = None;
        }
        self.ready.write().retain(|s| s.life.labor != life.labor);
    }

    /// Closes one session of a life, or all of them.
    pub(crate) fn close_sessions(
        &self,
        life: Life,
        which: Option<SessionId>,
        cause: Cause,
        status: Option<Status>,
    ) {
        let closed: Vec<Arc<Session>> = {
            let mut sessions = self.sessions.lock();
            let ids: Vec<SessionId> = sessions
                .values()
                .filter(|s| s.life == life && which.is_none_or(|id| id == s.id))
                .map(|s| s.id)
                .collect();
            ids.into_iter().filter_map(|id| sessions.remove(&id)).collect()
        };
        for session in closed {
            self.add_answered(session.answers.answered());
            session.close(cause.clone(), status.clone());
        }
    }

    /// A release has answered so much that no session counts any more.
    pub(crate) fn add_answered(&self, (release, answered): (Option<ReleaseId>, Answered)) {
        self.answered.lock().entry(release).or_default().add(answered);
    }

    /// What is answered counts from now on for a release that is tried.
    pub(super) fn forget_answered(&self, release: Option<ReleaseId>, present: Option<ReleaseId>) {
        self.answered.lock().retain(|of, _| *of == present && *of != release);
    }

    /// How far the release is trusted by which an attempt of a task has failed.
    pub(crate) fn trust_in(&self, result: &CallResult) -> Trust {
        let Some(call_result::Outcome::Failure(failure)) = &result.outcome else { return Trust::Full };
        let status = self.upgrade.lock().as_ref().map(|status| status.borrow().clone());
        let known = ReleaseId::from_bytes(&failure.release).zip(status);
        known.map_or(Trust::Full, |(release, status)| Trust::of(release, &status))
    }

    /// What a release has answered.
    pub(super) fn answered(&self, release: Option<ReleaseId>) -> Answered {
        let mut sum = self.answered.lock().get(&release).cloned().unwrap_or_default();
        let sessions = self.sessions.lock();
        let live = sessions.values().map(|s| s.answers.answered()).filter(|(of, _)| *of == release);
        live.for_each(|(_, answered)| sum.add(answered));
        sum
    }

    /// Closes every session, so that the labors dial again, and opens no more.
    pub(crate) fn leave(&self) {
        self.left.cancel();
        self.ready.write().clear();
        let labors: Vec<_> = self.labors.read().values().cloned().collect();
        labors.iter().for_each(|labor| *labor.session.write() = None);
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for session in sessions.into_values() {
            session.close(Cause::OwnerLost, Some(left()));
        }
    }

    /// The ready labor with the fewest open calls for its places; equals take turns.
    fn least_loaded(&self) -> Option<Arc<Session>> {
        let ready = self.ready.read();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..ready.len()).map(|i| &ready[(start + i) % ready.len()]);
        in_turn.min_by_key(|s| s.load()).cloned()
    }

    /// Calls that wait for a labor to become ready.
    pub(crate) fn waiting_calls(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Casts to the state of the callbacks that wait.
    pub(crate) fn waiting_casts(&self) -> usize {
        self.state_casts.load(Ordering::Relaxed)
    }

    /// Begins a call on the least loaded labor, waiting for one up to the queue deadline.
    pub(crate) async fn start_call(
        &self,
        method: &str,
        payload: Bytes,
        options: CallOptions,
    ) -> Result<OpenCall, CallError> {
        let traced = self.tracer.as_ref().zip(options.trace).map(|traced| (traced, clock::now()));
        let begun = self.find_labor(method, payload, options).await;
        if let Some(((tracer, trace), since)) = traced {
            tracer.queued(trace, since, method, begun.as_ref().err().map(ToString::to_string));
        }
        begun.inspect_err(|error| self.metrics.call_failed(error))
    }

    async fn find_labor(
        &self,
        method: &str,
        payload: Bytes,
        mut options: CallOptions,
    ) -> Result<OpenCall, CallError> {
        let waited = options.queue;
        let deadline = Instant::now() + waited.min(Duration::from_secs(86_400 * 365));
        loop {
            let changed = self.ready_changed.notified();
            if let Some(session) = self.least_loaded() {
                let id = session.id;
                options.queue = deadline.saturating_duration_since(Instant::now());
                match self.begin(session, method, payload.clone(), options).await {
                    // It was lost between the choice and the sending: nothing has run, so another
                    // one may have it.
                    Err(CallError::LaborLost { .. }) => {
                        self.pass_by(id);
                        continue;
                    }
                    other => return other,
                }
            }
            let place = Place::take(&self.waiting, WAITING_CALLS);
            let _place = place.ok_or_else(|| {
                self.metrics.refused.add("calls_waiting");
                CallError::FleetFull { waiting: WAITING_CALLS }
            })?;
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(CallError::NoLabor { waited });
            }
        }
    }

    async fn begin(
        &self,
        session: Arc<Session>,
        method: &str,
        payload: Bytes,
        options: CallOptions,
    ) -> Result<OpenCall, CallError> {
        begin(session, Arc::clone(&self.payloads), &self.metrics, method, payload, options).await
    }

    /// Sends a message without an answer to the least loaded labor that takes it.
    pub(crate) fn cast(&self, method: &str, payload: Bytes) -> Result<(), CallError> {
        while let Some(session) = self.least_loaded() {
            match session.cast(method, payload.clone()) {
                Err(CallError::LaborLost { .. }) => self.pass_by(session.id),
                other => {
                    self.metrics.cast(&other);
                    return other;
                }
            }
        }
        Err(CallError::NoLabor { waited: Duration::ZERO })
    }

    /// Routes a batch of a labor's telemetry to everybody who listens.
    pub(crate) fn route(&self, labor: &Arc<LaborShared>, batch: Batch) {
        tracing::trace!(target: "overseer::telemetry", labor = %batch.labor, first = batch.first, count = batch.count);
        if let Some(handler) = self.handler.get() {
            handler.telemetry(Labor { shared: Arc::clone(labor) }, &batch);
        }
        // Nobody listening is no error.
        let _ = self.telemetry.send(batch);
    }

    pub(crate) fn record(&self, life: Life, state: LaborState, cause: Option<Cause>) {
        let Some(labor) = self.labors.read().get(&life.labor).cloned() else { return };
        if state == LaborState::Terminated {
            // Who sees that state finds its slot free.
            self.forget(life.labor);
        }
        if let Some(Cause::HeartbeatLost { .. }) = &cause
            && state == LaborState::Lost
        {
            one(&self.metrics.silences);
        }
        labor.pace.lock().enter(state, &self.metrics);
        let entry = labor.enter(life.generation, state, cause);
        let cause = entry.cause.as_ref().map(tracing::field::display);
        tracing::debug!(labor = %life.labor, generation = life.generation.0, %state, cause, "labor");
        let _ = self.events.send(FleetEntry::Labor(entry));
    }

    pub(crate) fn record_upgrade(&self, status: UpgradeStatus) {
        let entry = UpgradeEntry { status, at_ms: millis(clock::now()) };
        let _ = self.events.send(FleetEntry::Upgrade(entry));
    }
}

/// What a labor is told whose fleet was left: it comes again.
pub(crate) fn left() -> Status {
    Status::unavailable("the Overseer leaves; come again")
}

/// One place among those that wait, given back when dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// None when all are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
