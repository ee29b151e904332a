mod adopt;
mod ends;
mod invited;
mod tick;
mod upgrade;

use std::collections::BTreeMap;
use std::time::Duration;

use overseer_protocol::{Cause, Generation, LaborId, LaborState, ReleaseId, SessionId};

use super::labor::{Labor, Phase};
use super::random::Random;
use super::restart::Intensity;
use super::rollout::Rollout;
use super::{Effect, Event, Happening, Life, Millis, Options};

pub use upgrade::NoUpgrade;

/// No slot is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the fleet has {taken} of at most {max} labors; end one, or raise max_nodes")]
pub struct AtCapacity {
    /// Slots taken.
    pub taken: usize,
    /// `max_nodes`.
    pub max: usize,
}

impl AtCapacity {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "fleet.at_capacity"
    }
}

/// The supervision of one fleet as a state machine: [`FleetCore::on_event`].
#[derive(Debug)]
pub struct FleetCore {
    options: Options,
    labors: BTreeMap<LaborId, Labor>,
    restarts: Intensity,
    /// Nothing can be started just now.
    paused: bool,
    /// What labors run that no upgrade has changed.
    release: Option<ReleaseId>,
    rollout: Option<Rollout>,
    random: Random,
    stopping: bool,
}

impl FleetCore {
    /// An empty fleet. `seed` feeds the jitter.
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            options,
            labors: BTreeMap::new(),
            restarts: Intensity::default(),
            random: Random::new(seed),
            paused: false,
            release: None,
            rollout: None,
            stopping: false,
        }
    }

    /// How the fleet is run.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether `n` more labors have a slot each.
    ///
    /// # Errors
    /// [`AtCapacity`]; nothing has changed.
    pub fn admit(&self, n: usize) -> Result<(), AtCapacity> {
        let (taken, max) = (self.labors.len(), self.options.max_nodes);
        if taken.saturating_add(n) > max { Err(AtCapacity { taken, max }) } else { Ok(()) }
    }

    /// Slots taken.
    pub fn len(&self) -> usize {
        self.labors.len()
    }

    /// Whether it ends, by [`FleetCore::stop_all`] or by escalation: nothing is started any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.labors.is_empty()
    }

    /// Every labor's life and state, in order of id.
    pub fn labors(&self) -> impl Iterator<Item = (Life, LaborState)> + '_ {
        self.labors.values().map(|l| (l.life(), l.state()))
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        let silence = self.options.silence.as_millis() as u64;
        self.labors
            .values()
            .filter_map(|l| {
                let quiet = l.session().map(|_| l.heard + silence);
                match (l.deadline, quiet) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                }
            })
            .chain(self.rollout.as_ref().and_then(Rollout::next_deadline))
            .min()
    }

    /// Takes one event and says what is to be done, in order. Events of an older life and
    /// events that make no sense in a state change nothing.
    pub fn on_event(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Start(id) => self.start(now, id, &mut out),
            Event::Invite { id, ttl } => self.invite(now, id, ttl, &mut out),
            Event::Adopted { life, found, unwanted, invited } => {
                self.adopt(now, life, found, unwanted, invited, &mut out);
            }
            Event::Drain(id) => self.drain(now, id, Cause::Asked, true, &mut out),
            Event::Terminate(id, cause) => self.terminate(now, id, cause, &mut out),
            Event::Paused(paused) => self.paused = paused,
            Event::Answers { new, before, error } => {
                self.answers(now, new, before, error.as_deref(), &mut out);
            }
            Event::Tick => {
                self.tick(now, &mut out);
                self.upgrade_due(now, &mut out);
            }
            Event::Accepted(life)
            | Event::Joined(life)
            | Event::Loaded(life, _)
            | Event::Ready(life, _)
            | Event::NotLoaded(life, ..)
            | Event::HostEnded(life, ..)
            | Event::Heard(life)
            | Event::Drained(life)
            | Event::TerminateFailed(life)
            | Event::Refused { life, .. }
            | Event::Attached { life, .. }
            | Event::Failed(life, _)
            | Event::Detached(life, _)
            | Event::Ended(life, _)
            | Event::Left(life, _)
            | Event::Going(life, _) => {
                if self.labors.get(&life.labor).is_some_and(|l| l.generation == life.generation) {
                    self.of_life(now, life, event, &mut out);
                }
            }
        }
        out
    }

    fn of_life(&mut self, now: Millis, life: Life, event: Event, out: &mut Vec<Effect>) {
        let silence_reset = matches!(event, Event::Attached { .. } | Event::Heard(_));
        let lease = self.options.lease.as_millis() as u64;
        let Some(labor) = self.labors.get_mut(&life.labor) else { return };
        if silence_reset {
            labor.heard = now;
            labor.lease_end = now + lease;
        }
        match (labor.phase.clone(), event) {
            (Phase::Requested, Event::Accepted(_)) => self.enter(now, life, Phase::Booting, None, out),
            (Phase::Requested, Event::Refused { cause, retryable, .. }) => {
                // The outcome of a refused request may be unknown: the adapter confirms the end.
                if !retryable {
                    labor.unwanted = true;
                }
                self.end_node(now, life, cause, out);
            }
            // A node may join before the adapter's answer arrives.
            (Phase::Requested | Phase::Booting, Event::Joined(_)) => {
                self.enter(now, life, Phase::Joining, None, out);
            }
            (
                Phase::Requested | Phase::Booting | Phase::Joining | Phase::Lost { .. },
                Event::Attached { session, draining: true, .. },
            ) => self.drains_already(now, life, session, out),
            (
                Phase::Requested | Phase::Booting | Phase::Joining,
                Event::Attached { session, ready, release, .. },
            ) => self.attached(now, life, session, ready.then_some(release), true, out),
            (
                Phase::Loading { session: old }
                | Phase::Loaded { session: old }
                | Phase::Ready { session: old },
                Event::Attached { session, ready, release, draining, .. },
            ) => {
                // The agent has noticed the cut before we did.
                out.push(Effect::CloseForCalls(life));
                out.push(Effect::CloseSession(life, Some(old)));
                match draining {
                    true => self.drains_already(now, life, session, out),
                    false => self.attached(now, life, session, ready.then_some(release), false, out),
                }
            }
            (Phase::Lost { .. }, Event::Attached { session, ready, release, .. }) => {
                self.attached(now, life, session, ready.then_some(release), false, out);
            }
            (Phase::Draining { cause, session: old }, Event::Attached { session, .. }) => {
                out.push(Effect::CloseSession(life, Some(old)));
                labor.phase = Phase::Draining { session, cause };
                out.push(Effect::SendDrain(life, session));
            }
            (Phase::Stopping { cause }, Event::Attached { session, .. }) => {
                out.push(Effect::SendShutdown(life, session, cause));
            }
            (Phase::Terminating { cause, .. }, Event::Attached { session, .. }) if labor.is_invited() => {
                self.came_back(now, life, session, cause, out);
            }
            (Phase::Terminating { .. } | Phase::Backoff, Event::Attached { session, .. }) => {
                out.push(Effect::CloseSession(life, Some(session)));
            }
            (Phase::Loading { session }, Event::Loaded(_, release)) if release == labor.target => {
                self.enter(now, life, Phase::Loaded { session }, None, out);
                out.push(Effect::Tell(Happening::Loaded(life)));
            }
            (Phase::Loading { session } | Phase::Loaded { session }, Event::Ready(_, release))
                if release == labor.target =>
            {
                self.ready(now, life, session, release, out);
            }
            (Phase::Ready { .. }, Event::Ready(_, release)) => self.changed(now, life, release, out),
            (
                Phase::Loading { .. } | Phase::Loaded { .. } | Phase::Ready { .. },
                Event::NotLoaded(_, release, cause),
            ) => self.not_loaded(now, life, release, cause, out),
            (_, Event::HostEnded(_, release, cause)) => self.host_ended(now, release, &cause, out),
            (Phase::Loading { .. } | Phase::Loaded { .. } | Phase::Ready { .. }, Event::Failed(_, cause)) => {
                self.give_up(now, life, cause, out);
            }
            (
                Phase::Loading { session: ours }
                | Phase::Loaded { session: ours }
                | Phase::Ready { session: ours },
                Event::Detached(_, session),
            ) if ours == session => self.lost(now, life, Cause::ConnectionLost, out),
            (Phase::Draining { session: ours, cause }, Event::Detached(_, session)) if ours == session => {
                self.end_node(now, life, cause, out);
            }
            (Phase::Draining { cause, .. }, Event::Drained(_)) => self.stop(now, life, cause, out),
            (
                Phase::Draining { cause, .. } | Phase::Stopping { cause } | Phase::Terminating { cause, .. },
                Event::Ended(_, _),
            ) => {
                self.gone(now, life, cause, out);
            }
            // Of a node that an adapter has made, the end of the node counts.
            (_, Event::Left(_, cause)) if labor.is_invited() => self.left(now, life, cause, out),
            // What was lost and is now seen dead died of what was seen.
            (Phase::Backoff, Event::Ended(_, _)) => {}
            (_, Event::Ended(_, cause)) => {
                self.leave_calls(life, out);
                self.gone(now, life, cause, out);
            }
            (Phase::Ready { .. }, Event::Going(_, cause)) => {
                out.push(Effect::Tell(Happening::Going(life, cause.clone())));
                self.drain(now, life.labor, cause, false, out);
            }
            (
                Phase::Draining { .. } | Phase::Stopping { .. } | Phase::Terminating { .. } | Phase::Backoff,
                Event::Going(..),
            ) => {}
            (_, Event::Going(_, cause)) => {
                out.push(Effect::Tell(Happening::Going(life, cause.clone())));
                self.end_node(now, life, cause, out);
            }
            (Phase::Terminating { .. }, Event::TerminateFailed(_)) => {
                // Asked again at the deadline that runs already.
            }
            _ => {}
        }
    }

    fn start(&mut self, now: Millis, id: LaborId, out: &mut Vec<Effect>) {
        if self.labors.contains_key(&id) || self.stopping || self.admit(1).is_err() {
            return;
        }
        let life = Life { labor: id, generation: Generation::FIRST };
        self.labors.insert(id, self.new_labor(now, life, Phase::Requested));
        self.request(now, id, out);
    }

    /// Whether something may follow the present life of a labor.
    pub fn is_wanted(&self, labor: LaborId) -> bool {
        !self.stopping && self.labors.get(&labor).is_some_and(|l| !l.unwanted)
    }

    /// Whether a labor stays: it lives on, or another life of it follows.
    pub fn stays(&self, labor: LaborId) -> bool {
        let Some(labor) = self.labors.get(&labor).filter(|_| !self.stopping) else { return false };
        let ends_for = match &labor.phase {
            Phase::Draining { cause, .. } | Phase::Stopping { cause } | Phase::Terminating { cause, .. } => {
                Some(cause)
            }
            _ => None,
        };
        match (labor.unwanted, ends_for) {
            (false, None) => true,
            (false, Some(cause)) => self.options.restart.applies(cause),
            // One that was invited has no other life, but stays as long as it is there.
            (true, ends_for) => labor.invited.is_some() && ends_for.is_none(),
        }
    }

    fn request(&mut self, now: Millis, id: LaborId, out: &mut Vec<Effect>) {
        let boot = self.options.deadlines.provision + self.options.deadlines.boot + self.options.lease;
        let Some(labor) = self.labors.get_mut(&id) else { return };
        labor.lease_end = now + boot.as_millis() as u64;
        let life = labor.life();
        self.enter(now, life, Phase::Requested, None, out);
        out.push(Effect::Provision(life));
    }

    fn attached(
        &mut self,
        now: Millis,
        life: Life,
        session: SessionId,
        runs: Option<Option<ReleaseId>>,
        first: bool,
        out: &mut Vec<Effect>,
    ) {
        if first {
            out.push(Effect::State(life, LaborState::Connected, None));
        }
        out.push(Effect::Tell(Happening::Connected(life)));
        let target = self.labors.get(&life.labor).and_then(|labor| labor.target);
        match runs.filter(|runs| self.may_run(target, *runs)) {
            Some(release) => self.ready(now, life, session, release, out),
            None => {
                self.enter(now, life, Phase::Loading { session }, None, out);
                out.push(Effect::Load(life, session, target));
            }
        }
    }

    /// It was asked to drain by an Overseer before this one, or by a signal: it can only end, and
    /// another life may follow.
    fn drains_already(&mut self, now: Millis, life: Life, session: SessionId, out: &mut Vec<Effect>) {
        let cause = Cause::OwnerLost;
        self.enter(now, life, Phase::Draining { session, cause: cause.clone() }, Some(cause), out);
        out.push(Effect::SendDrain(life, session));
    }

    fn ready(
        &mut self,
        now: Millis,
        life: Life,
        session: SessionId,
        release: Option<ReleaseId>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(labor) = self.labors.get_mut(&life.labor) {
            labor.runs = release;
            labor.failures = 0;
            labor.load_by = None;
        }
        // Whoever sees the state may call.
        out.push(Effect::OpenForCalls(life, session));
        self.enter(now, life, Phase::Ready { session }, None, out);
        out.push(Effect::Tell(Happening::Paired(life)));
    }

    fn next_life(&mut self, now: Millis, id: LaborId, out: &mut Vec<Effect>) {
        if let Some(labor) = self.labors.get_mut(&id) {
            labor.generation = labor.generation.next();
            labor.load_by = None;
            labor.heard = now;
            self.request(now, id, out);
        }
    }

    fn enter(&mut self, now: Millis, life: Life, phase: Phase, cause: Option<Cause>, out: &mut Vec<Effect>) {
        let options = &self.options;
        let Some(labor) = self.labors.get_mut(&life.labor) else { return };
        labor.phase = phase;
        let last: Option<Duration> = match &labor.phase {
            Phase::Ready { .. } | Phase::Backoff => None,
            Phase::Lost { .. } => Some(options.grace),
            Phase::Draining { .. } => Some(options.deadlines.drain),
            Phase::Stopping { .. } => Some(options.deadlines.stop),
            Phase::Terminating { tries, .. } => Some(options.deadlines.terminate * (*tries).clamp(1, 12)),
            _ => labor.boot_step(&options.deadlines).map(|(_, d)| d),
        };
        labor.deadline = last.map(|d| now + d.as_millis() as u64);
        if matches!(labor.phase, Phase::Loading { .. } | Phase::Loaded { .. }) {
            let whole = options.deadlines.load + options.deadlines.start;
            let by = *labor.load_by.get_or_insert(now + whole.as_millis() as u64);
            labor.deadline = labor.deadline.map(|deadline| deadline.min(by));
        }
        out.push(Effect::State(life, labor.state(), cause));
        self.roll(now, out);
    }
}
