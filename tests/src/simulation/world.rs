//! The world: what happens, one thing after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use overseer::core::{Event, Life, Millis, TaskEvent};
use overseer::tasks::{Retry, TaskRecord, TaskState};
use overseer::{Attempt, LaborId, LaborState, TaskId};
use overseer_protocol::SessionId;

use super::agent::Node;
use super::fault::{Faults, Kind};
use super::queue::{Dice, Queue};
use super::server::Server;
use super::store::Store;
use super::{CALM, FAULTY};

/// Labors that the fleet should have.
pub(super) const LABORS: usize = 4;
/// Tasks that one labor takes at once.
pub(super) const PLACES: usize = 3;
/// The clock begins somewhere.
const BEGIN: Millis = 1_700_000_000_000;

/// What is on its way.
#[derive(Debug)]
pub(super) enum Happening {
    ServerStarts,
    ServerTick(u64),
    Reconcile(u64),
    LaborWritten(u64),
    TaskWritten(u64, TaskId),
    Submitted(u64, Box<TaskRecord>),
    /// To the fleet's core, from the adapter or one of its notices.
    Told(u64, Event),
    Provisioned(u64, Life, Result<(), bool>),
    EndLate(u64, Life),
    AgentTick(Life),
    Dial(Life, u64),
    Loads(Life, bool),
    TaskEnds(Life, TaskId, Attempt),
    Up(SessionId, Life, Up),
    Down(SessionId, Life, Down),
    Submit,
    Fault,
}

/// From an agent.
#[derive(Debug)]
pub(super) enum Up {
    Event(Event),
    Task(TaskEvent),
    Beat,
}

/// To an agent.
#[derive(Debug)]
pub(super) enum Down {
    Lease,
    Load,
    Drain,
    Shutdown,
    Run(TaskId, Attempt),
    Cancel(TaskId, Attempt),
    AskBack(TaskId, Attempt),
    Forget(TaskId, Attempt),
    /// The session is closed.
    Closed,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) queue: Queue<Happening>,
    pub(super) server: Option<Server>,
    pub(super) epoch: u64,
    pub(super) store: Store,
    pub(super) nodes: BTreeMap<Life, Node>,
    /// Lives that the adapter was told to end.
    pub(super) over: BTreeSet<Life>,
    pub(super) sessions: u64,
    pub(super) begun: BTreeMap<TaskId, BTreeSet<Attempt>>,
    pub(super) poison: BTreeSet<TaskId>,
    pub(super) ids: u128,
    pub(super) without: BTreeSet<Kind>,
    pub(super) faulty_until: Millis,
    pub(super) faults: Faults,
    pub(super) covered: BTreeMap<(String, String), u64>,
    pub(super) trace: Vec<String>,
    steps: u64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Things that happened.
    pub steps: u64,
    /// Tasks with a result.
    pub done: u64,
    /// Tasks without one, by code.
    pub failed: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub faults: Faults,
    /// Events that came in each state of a labor, of one that was invited by a name of its own.
    pub covered: BTreeMap<(String, String), u64>,
}

/// Runs the world of a seed, without some kinds of faults, for so long; what went wrong.
///
/// # Errors
/// What did not hold, and the last things that happened.
pub fn run(seed: u64, without: &BTreeSet<Kind>, faulty: Option<Millis>) -> Result<Outcome, String> {
    let mut world = World::new(seed, without.clone(), faulty.unwrap_or(FAULTY));
    let ran = catch_unwind(AssertUnwindSafe(|| world.live()));
    ran.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let last = world.trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n  ");
        format!("{}\n  {last}", text.unwrap_or_default())
    })?;
    let mut outcome = Outcome { steps: world.steps, faults: world.faults, ..Outcome::default() };
    outcome.covered = world.covered;
    for (record, _) in world.store.tasks.values() {
        match &record.state {
            TaskState::Failed { failure, .. } => *outcome.failed.entry(failure.code()).or_default() += 1,
            _ => outcome.done += 1,
        }
    }
    Ok(outcome)
}

impl World {
    fn new(seed: u64, without: BTreeSet<Kind>, faulty: Millis) -> Self {
        Self {
            dice: Dice::new(seed),
            queue: Queue::new(BEGIN),
            server: None,
            epoch: 0,
            store: Store::default(),
            nodes: BTreeMap::new(),
            over: BTreeSet::new(),
            sessions: 0,
            begun: BTreeMap::new(),
            poison: BTreeSet::new(),
            ids: 0,
            without,
            faulty_until: BEGIN + faulty,
            faults: Faults::new(),
            covered: BTreeMap::new(),
            trace: Vec::new(),
            steps: 0,
        }
    }

    fn live(&mut self) {
        self.queue.at(BEGIN, Happening::ServerStarts);
        self.queue.at(BEGIN + 10, Happening::Submit);
        self.queue.at(BEGIN + 500, Happening::Fault);
        let end = self.faulty_until + CALM;
        while let Some(happening) = self.queue.next(end) {
            self.steps += 1;
            if self.trace.len() > 2000 {
                self.trace.drain(..1000);
            }
            let now = self.queue.now - BEGIN;
            self.trace.push(format!("{now} {happening:?}"));
            self.happens(happening);
            if self.queue.now > self.faulty_until && self.steps.is_multiple_of(64) && self.is_calm() {
                break;
            }
        }
        self.check_the_end();
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.queue.now < self.faulty_until
    }

    /// Whether a fault of this kind is to happen now, once in so many times.
    pub(super) fn fault(&mut self, kind: Kind, one_in: u64) -> bool {
        let happens = self.dice.one_in(one_in) && self.is_faulty() && !self.without.contains(&kind);
        if happens {
            *self.faults.entry(kind).or_default() += 1;
        }
        happens
    }

    pub(super) fn delay(&mut self, most: Millis) -> Millis {
        1 + self.dice.roll(most)
    }

    fn happens(&mut self, happening: Happening) {
        let epoch = self.server.as_ref().map(|s| s.epoch);
        match happening {
            Happening::ServerStarts => self.start_server(),
            Happening::ServerTick(of) if epoch == Some(of) => {
                self.fleet_event(Event::Tick);
                self.task_event(TaskEvent::Tick);
                self.queue.after(100, Happening::ServerTick(of));
            }
            Happening::Reconcile(of) if epoch == Some(of) => self.reconcile(of),
            Happening::LaborWritten(of) if epoch == Some(of) => self.labor_written(),
            Happening::TaskWritten(of, task) if epoch == Some(of) => self.task_written(task),
            Happening::Submitted(of, record) if epoch == Some(of) => self.submitted(record),
            Happening::Told(of, event) if epoch == Some(of) => self.fleet_event(event),
            Happening::Provisioned(of, life, answer) if epoch == Some(of) => self.provisioned(life, answer),
            Happening::EndLate(of, life) if epoch == Some(of) => self.end_late(life),
            Happening::AgentTick(life) => self.agent_tick(life),
            Happening::Dial(life, dial) => self.dial(life, dial),
            Happening::Loads(life, good) => self.loads(life, good),
            Happening::TaskEnds(life, task, attempt) => self.task_ends(life, task, attempt),
            Happening::Up(session, life, up) => self.up(session, life, up),
            Happening::Down(session, life, down) => self.down(session, life, down),
            Happening::Submit => self.submit(),
            Happening::Fault => self.any_fault(),
            // Of a server that is gone.
            _ => {}
        }
    }

    fn submit(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let next = self.delay(800);
        self.queue.after(next, Happening::Submit);
        let Some(server) = &self.server else { return };
        let epoch = server.epoch;
        self.ids += 1;
        let task = TaskId(self.ids);
        if self.dice.one_in(25) {
            self.poison.insert(task);
        }
        let now = self.queue.now;
        let retry = match self.dice.roll(3) {
            0 => Retry::never(),
            1 => Retry::default(),
            _ => Retry::times(2),
        };
        let queue_until_ms = self.dice.one_in(4).then_some(now + 30_000);
        let run_ms = self.dice.one_in(2).then_some(25_000);
        let record = TaskRecord::new("farm".parse().expect("a name"), task, "m", retry, now);
        let record = TaskRecord { queue_until_ms, run_ms, ..record };
        let delay = self.delay(15);
        self.queue.after(delay, Happening::Submitted(epoch, Box::new(record)));
    }

    /// Everything has come to its end.
    fn is_calm(&self) -> bool {
        let Some(server) = &self.server else { return false };
        let labors: Vec<_> = server.fleet.labors().collect();
        let lives: BTreeSet<Life> = labors.iter().map(|(life, _)| *life).collect();
        let nodes: BTreeSet<Life> = self.nodes.keys().copied().collect();
        let stored: BTreeMap<LaborId, (Life, LaborState)> =
            self.store.labors.values().map(|l| (l.life.labor, (l.life, l.state))).collect();
        server.tasks.is_empty()
            && labors.len() >= LABORS
            && labors.iter().all(|(life, state)| {
                *state == LaborState::Ready && stored.get(&life.labor) == Some(&(*life, *state))
            })
            && lives == nodes
            && stored.len() == labors.len()
            && server.sessions.len() == labors.len()
    }

    fn check_the_end(&self) {
        let labors: Option<Vec<_>> = self.server.as_ref().map(|s| s.fleet.labors().collect());
        assert!(
            self.is_calm(),
            "an hour after the last fault: labors {labors:?}, nodes {:?}, records {:?}, tasks {:?}",
            self.nodes.keys().collect::<Vec<_>>(),
            self.store.labors,
            self.server.as_ref().map(|s| s.tasks.count()),
        );
        for (record, _) in self.store.tasks.values() {
            assert!(record.is_over(), "never over: {record:?}");
        }
    }
}
