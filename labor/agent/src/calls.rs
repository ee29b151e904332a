//! Admission and deadlines of calls at the agent. Pure: events in, effects out.
//!
//! Up to `concurrency` calls run in the plugin host, the others wait in order of arrival, within
//! bounds: here, or while calls are short some of them in the [host](crate::ahead). Every call that
//! wants an answer gets exactly one, unless its session ends before; an attempt of a stored task goes
//! on without one. When another host takes over, what the one before has stays with it.

mod hosts;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use overseer_protocol::{CallErrorCode, Cause};

use crate::ahead::Ahead;
use crate::host::Failure;
pub(crate) use hosts::HostNumber;
use hosts::{Hosts, Present};

/// Most calls that wait.
pub(crate) const MAX_WAITING: usize = 4096;
/// Most bytes of payload that wait.
pub(crate) const MAX_WAITING_BYTES: usize = 64 << 20;
/// Time for a plugin to end a call that was cancelled or is past its deadline.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(2);

const NO_HOST: &str = "the plugin host is gone and is not started again";
const NO_CALLS: &str =
    "the release is a program that takes no calls; load a plugin, or a program that serves";

/// A call as it arrives. `P` is what the host needs to run it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewCall<P> {
    pub(crate) id: u64,
    /// Time to wait for a free slot; none: no limit.
    pub(crate) queue: Option<Duration>,
    /// Time to run; none: no limit.
    pub(crate) run: Option<Duration>,
    /// No answer is wanted.
    pub(crate) cast: bool,
    /// It goes on when its session is gone: an attempt of a stored task.
    pub(crate) stored: bool,
    /// What it holds of memory while it waits.
    pub(crate) bytes: usize,
    pub(crate) payload: P,
}

/// What happens to calls. `R` is a result of the host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event<P, R> {
    Arrived(NewCall<P>),
    /// The Overseer no longer wants it.
    Cancelled(u64),
    /// The Overseer wants it back, unless it has begun.
    AskedBack(u64),
    /// It ended in the host, or before it got there.
    Finished(u64, Result<R, Failure>),
    /// A host is being started, and calls wait for it. One that is up finishes what it has.
    HostStarting,
    /// This one takes calls from now on, so many at once; with none it takes no calls. One that was
    /// up before finishes what it has.
    HostUp {
        host: HostNumber,
        concurrency: u32,
    },
    /// A host is gone. `restarts`: another one follows the present one, so what waits may wait on.
    HostEnded {
        host: HostNumber,
        cause: Cause,
        restarts: bool,
    },
    /// None is there, and none comes.
    NoHost,
    /// Take nothing new; what waits is refused.
    Draining,
    /// The session that the calls came over is gone: the Overseer has failed them already, but for
    /// those of stored tasks.
    SessionLost,
    /// A deadline may be due.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect<P, R> {
    /// Give it to the host.
    Run(u64, P),
    /// Tell the host, or whoever fetches its payload, to give it up.
    Stop(u64),
    /// Tell the Overseer.
    Answer(u64, Outcome<R>),
    /// It is over, answered or not: its logs end.
    Over(u64),
    /// A call did not end in time: end its host for this cause. `HostEnded` follows with it.
    KillHost(HostNumber, Cause),
    /// A host that another one has followed has finished what it had.
    Idle(HostNumber),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome<R> {
    Done(R),
    Failed { code: CallErrorCode, message: String, cause: Option<Cause> },
}

#[derive(Debug)]
enum State<P> {
    Waiting(NewCall<P>),
    Running {
        host: HostNumber,
        cast: bool,
        stored: bool,
        given: Instant,
        run: Option<Duration>,
        stopping: Option<(CallErrorCode, Instant)>,
    },
}

/// All calls of one agent.
#[derive(Debug)]
pub(crate) struct Calls<P> {
    calls: HashMap<u64, State<P>>,
    /// Ids in order of arrival; those that are gone already are skipped.
    queue: VecDeque<u64>,
    /// At most one for each call.
    deadlines: BTreeSet<(Instant, u64)>,
    due: HashMap<u64, Instant>,
    waiting: usize,
    waiting_bytes: usize,
    ahead: Ahead,
    hosts: Hosts,
    draining: bool,
}

impl<P> Default for Calls<P> {
    fn default() -> Self {
        Self {
            calls: HashMap::new(),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            due: HashMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            ahead: Ahead::default(),
            hosts: Hosts::default(),
            draining: false,
        }
    }
}

impl<P> Calls<P> {
    /// Calls in a host, whether they run there or wait.
    pub(crate) fn running(&self) -> usize {
        self.hosts.running()
    }

    /// Calls that wait for a slot.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// When the next `Tick` is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes in one event.
    pub(crate) fn on_event<R>(&mut self, now: Instant, event: Event<P, R>) -> Vec<Effect<P, R>> {
        let mut effects = Vec::new();
        match event {
            Event::Arrived(call) => self.arrived(now, call, &mut effects),
            Event::Cancelled(id) => self.cancelled(now, id, &mut effects),
            Event::AskedBack(id) => {
                if matches!(self.calls.get(&id), Some(State::Waiting(_))) {
                    let message = "given back before it began: the labor was busy".to_owned();
                    self.end_waiting(id, CallErrorCode::GivenBack, message, &mut effects);
                }
            }
            Event::Finished(id, outcome) => self.finished(now, id, outcome, &mut effects),
            Event::HostStarting => self.replace(Present::Starting, &mut effects),
            Event::HostUp { host, concurrency } => {
                self.replace(Present::Up { host, concurrency }, &mut effects);
                if concurrency == 0 {
                    self.refuse_waiting(CallErrorCode::NoMethod, NO_CALLS, &mut effects);
                }
            }
            Event::HostEnded { host, cause, restarts } => {
                self.host_ended(host, cause, restarts, &mut effects);
            }
            Event::NoHost => {
                self.replace(Present::Absent, &mut effects);
                self.refuse_waiting(CallErrorCode::NotReady, NO_HOST, &mut effects);
            }
            Event::Draining => {
                self.draining = true;
                let message = "the labor drains; send the call to another one";
                self.refuse_waiting(CallErrorCode::Draining, message, &mut effects);
            }
            Event::SessionLost => self.session_lost(now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.start_waiting(now, &mut effects);
        effects
    }

    fn arrived<R>(&mut self, now: Instant, call: NewCall<P>, effects: &mut Vec<Effect<P, R>>) {
        if self.calls.contains_key(&call.id) {
            // The Overseer numbers calls; the same number twice is the same call.
            return;
        }
        let refusal = if self.draining {
            Some((CallErrorCode::Draining, "the labor drains; send the call to another one"))
        } else if matches!(self.hosts.present, Present::Up { concurrency: 0, .. }) {
            Some((CallErrorCode::NoMethod, NO_CALLS))
        } else if self.hosts.present == Present::Absent {
            Some((CallErrorCode::NotReady, "no release is up on the labor; load one first"))
        } else if self.waiting >= MAX_WAITING
            || self.waiting_bytes.saturating_add(call.bytes) > MAX_WAITING_BYTES
        {
            Some((CallErrorCode::Overloaded, "too many calls wait on the labor; send fewer at once"))
        } else {
            None
        };
        if let Some((code, message)) = refusal {
            if !call.cast {
                effects.push(Effect::Answer(call.id, failed(code, message.to_owned(), None)));
            }
            effects.push(Effect::Over(call.id));
            return;
        }
        if let Some(queue) = call.queue {
            self.set_deadline(call.id, Some(now + queue));
        }
        self.waiting += 1;
        self.waiting_bytes += call.bytes;
        self.queue.push_back(call.id);
        self.calls.insert(call.id, State::Waiting(call));
    }

    fn cancelled<R>(&mut self, now: Instant, id: u64, effects: &mut Vec<Effect<P, R>>) {
        match self.calls.get(&id) {
            Some(State::Waiting(_)) => {
                self.end_waiting(id, CallErrorCode::Cancelled, "cancelled before it ran".to_owned(), effects);
            }
            Some(State::Running { .. }) => self.stop(now, id, CallErrorCode::Cancelled, effects),
            None => {}
        }
    }

    /// Asks the host to end a call; from now on the grace runs.
    fn stop<R>(&mut self, now: Instant, id: u64, code: CallErrorCode, effects: &mut Vec<Effect<P, R>>) {
        if let Some(State::Running { stopping, .. }) = self.calls.get_mut(&id)
            && stopping.is_none()
        {
            *stopping = Some((code, now));
            self.set_deadline(id, Some(now + CANCEL_GRACE));
            effects.push(Effect::Stop(id));
        }
    }

    fn finished<R>(
        &mut self,
        now: Instant,
        id: u64,
        outcome: Result<R, Failure>,
        effects: &mut Vec<Effect<P, R>>,
    ) {
        // An answer to a call that is forgotten or was never ours changes nothing.
        let Some(State::Running { host, cast, given, stopping, .. }) =
            self.calls.get(&id).filter(|c| matches!(c, State::Running { .. }))
        else {
            return;
        };
        self.ahead.back(*given, now);
        // A result that came in spite of a cancel is the truth; an error is the cancel's.
        let outcome = match (outcome, stopping) {
            (Ok(result), _) => Outcome::Done(result),
            (Err(failure), Some((code, _))) => failed(*code, failure.message, None),
            // Nobody gave it up: the host stops, and its calls with it.
            (Err(Failure { code: CallErrorCode::Cancelled, message, .. }), None) if self.draining => {
                failed(CallErrorCode::HostEnded, format!("the labor ends: {message}"), Some(Cause::Asked))
            }
            (Err(Failure { code: CallErrorCode::Cancelled, message, .. }), None)
                if !self.hosts.is_present(*host) =>
            {
                let message = format!("the older version took too long to finish: {message}");
                failed(CallErrorCode::HostEnded, message, Some(Cause::Asked))
            }
            (Err(Failure { code, message, cause }), None) => failed(code, message, cause),
        };
        if !cast {
            effects.push(Effect::Answer(id, outcome));
        }
        let idle = self.remove_running(id);
        effects.push(Effect::Over(id));
        effects.extend(idle.map(Effect::Idle));
    }

    /// Another host takes calls, or none does. What the one before has stays with it.
    fn replace<R>(&mut self, present: Present, effects: &mut Vec<Effect<P, R>>) {
        effects.extend(self.hosts.replace(present).map(Effect::Idle));
    }

    fn host_ended<R>(
        &mut self,
        host: HostNumber,
        cause: Cause,
        restarts: bool,
        effects: &mut Vec<Effect<P, R>>,
    ) {
        let present = self.hosts.is_present(host);
        let of_it = |c: &State<P>| matches!(c, State::Running { host: of, .. } if *of == host);
        let ids = self.ids(of_it);
        for id in ids {
            if let Some(State::Running { cast: false, stopping, .. }) = self.calls.get(&id) {
                // The code is said before it.
                let (code, message) = match stopping {
                    Some((code, _)) => (*code, format!("the plugin host ended: {cause}")),
                    None => (CallErrorCode::HostEnded, cause.to_string()),
                };
                effects.push(Effect::Answer(id, failed(code, message, Some(cause.clone()))));
            }
            self.remove_running(id);
            effects.push(Effect::Over(id));
        }
        self.hosts.gone(host);
        if present && !restarts {
            self.refuse_waiting(CallErrorCode::NotReady, NO_HOST, effects);
        }
        if present {
            self.hosts.present = if restarts { Present::Starting } else { Present::Absent };
        }
    }

    fn session_lost<R>(&mut self, now: Instant, effects: &mut Vec<Effect<P, R>>) {
        for id in self.ids(|c| matches!(c, State::Waiting(call) if !call.stored)) {
            self.remove_waiting(id);
            effects.push(Effect::Over(id));
        }
        for id in self.ids(|c| matches!(c, State::Running { stored: false, .. })) {
            // It keeps its slot until the plugin has let go of it, but nobody waits for it.
            if let Some(State::Running { cast, .. }) = self.calls.get_mut(&id) {
                *cast = true;
            }
            self.stop(now, id, CallErrorCode::Cancelled, effects);
        }
    }

    fn tick<R>(&mut self, now: Instant, effects: &mut Vec<Effect<P, R>>) {
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.set_deadline(id, None);
            match self.calls.get(&id) {
                Some(State::Waiting(call)) => {
                    let ms = call.queue.unwrap_or_default().as_millis();
                    let message = format!("waited {ms} ms for a free slot on the labor");
                    self.end_waiting(id, CallErrorCode::QueueDeadline, message, effects);
                }
                Some(State::Running { stopping: None, .. }) => {
                    self.stop(now, id, CallErrorCode::RunDeadline, effects);
                }
                Some(State::Running { host, stopping: Some((code, since)), run, .. }) => {
                    let mut had = now.saturating_duration_since(*since);
                    if *code == CallErrorCode::RunDeadline {
                        had += run.unwrap_or_default();
                    }
                    let after_ms = u64::try_from(had.as_millis()).unwrap_or(u64::MAX);
                    let host = *host;
                    if self.hosts.kill(host) {
                        effects.push(Effect::KillHost(host, Cause::Hung { after_ms }));
                    }
                }
                None => {}
            }
        }
    }

    fn start_waiting<R>(&mut self, now: Instant, effects: &mut Vec<Effect<P, R>>) {
        let ahead = self.ahead.most();
        while let Some((host, running, concurrency)) = self.hosts.open() {
            let places = concurrency as usize;
            if running >= places + ahead {
                break;
            }
            let Some(id) = self.queue.front().copied() else { break };
            let Some(State::Waiting(call)) = self.calls.get(&id) else {
                self.queue.pop_front();
                continue;
            };
            if running >= places && (call.stored || concurrency == 0) {
                break;
            }
            self.queue.pop_front();
            let Some(call) = self.remove_waiting(id) else { continue };
            self.hosts.begin();
            self.set_deadline(id, call.run.map(|run| now + run));
            let NewCall { cast, stored, run, .. } = call;
            self.calls.insert(id, State::Running { host, cast, stored, given: now, run, stopping: None });
            effects.push(Effect::Run(id, call.payload));
        }
        // Cancelled calls leave their number behind; do not let them gather.
        if self.queue.len() > 2 * self.waiting + 64 {
            let calls = &self.calls;
            self.queue.retain(|id| matches!(calls.get(id), Some(State::Waiting(_))));
        }
    }

    fn refuse_waiting<R>(&mut self, code: CallErrorCode, message: &str, effects: &mut Vec<Effect<P, R>>) {
        for id in self.ids(|c| matches!(c, State::Waiting(_))) {
            self.end_waiting(id, code, message.to_owned(), effects);
        }
    }

    fn end_waiting<R>(
        &mut self,
        id: u64,
        code: CallErrorCode,
        message: String,
        effects: &mut Vec<Effect<P, R>>,
    ) {
        if let Some(call) = self.remove_waiting(id) {
            if !call.cast {
                effects.push(Effect::Answer(id, failed(code, message, None)));
            }
            effects.push(Effect::Over(id));
        }
    }

    fn remove_waiting(&mut self, id: u64) -> Option<NewCall<P>> {
        self.set_deadline(id, None);
        match self.calls.remove(&id) {
            Some(State::Waiting(call)) => {
                self.waiting -= 1;
                self.waiting_bytes -= call.bytes;
                Some(call)
            }
            _ => None,
        }
    }

    /// The host that has nothing to do any more, if that was the last call of one that takes no others.
    fn remove_running(&mut self, id: u64) -> Option<HostNumber> {
        self.set_deadline(id, None);
        let Some(State::Running { host, .. }) = self.calls.remove(&id) else { return None };
        self.hosts.end(host).then_some(host)
    }

    fn set_deadline(&mut self, id: u64, at: Option<Instant>) {
        let old = match at {
            Some(at) => {
                self.deadlines.insert((at, id));
                self.due.insert(id, at).filter(|old| *old != at)
            }
            None => self.due.remove(&id),
        };
        if let Some(old) = old {
            self.deadlines.remove(&(old, id));
        }
    }

    /// In order of their number, so that the same events give the same effects.
    fn ids(&self, which: impl Fn(&State<P>) -> bool) -> Vec<u64> {
        let mut ids: Vec<u64> = self.calls.iter().filter(|(_, c)| which(c)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}

fn failed<R>(code: CallErrorCode, message: String, cause: Option<Cause>) -> Outcome<R> {
    Outcome::Failed { code, message, cause }
}

#[cfg(test)]
mod tests;
