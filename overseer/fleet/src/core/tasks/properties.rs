//! A small world around the core: agents that run attempts and may die, a network that loses what
//! is on its way when a session ends, a store, and a server that may be killed after any effect.
//! What must hold is checked after every step; a failure prints its seed.

mod releases;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use overseer_protocol::{Attempt, CallErrorCode, Cause, Generation, LaborId, ReleaseId, SessionId, TaskId};

use self::releases::Releases;
use super::*;
use crate::tasks::Retry;

const PLACES: usize = 2;
/// Tasks that a labor has at most, with those that wait there.
const MOST: usize = PLACES * (1 + labors::AHEAD);
const LABORS: u128 = 3;

/// What an agent has.
#[derive(Debug, Clone, PartialEq)]
struct Had {
    /// What it runs on.
    release: Option<ReleaseId>,
    /// It does not wait for a place any more.
    begun: bool,
    /// None while it waits or runs.
    end: Option<Result<Content, AttemptEnd>>,
}

/// What an agent says.
#[derive(Debug)]
enum Report {
    Held { session: SessionId, attempts: Vec<(TaskId, Attempt)> },
    Answered { task: TaskId, attempt: Attempt, had: Had },
}

#[derive(Debug)]
struct Node {
    life: Life,
    session: Option<SessionId>,
    has: BTreeMap<(TaskId, Attempt), Had>,
    /// Those that wait for a place, and some that do not any more.
    waiting: VecDeque<(TaskId, Attempt)>,
    /// To the agent, in order; lost with the session.
    orders: VecDeque<Order>,
    /// From the agent, in order; lost with the session.
    reports: VecDeque<Report>,
    /// What is up on it; none: what the fleet has run from the start.
    release: Option<ReleaseId>,
}

#[derive(Debug)]
enum Order {
    Run(TaskId, Attempt),
    Cancel(TaskId, Attempt),
    AskBack(TaskId, Attempt),
    Forget(TaskId, Attempt),
}

struct World {
    random: Random,
    now: Millis,
    core: TaskCore,
    /// What survives the server.
    store: BTreeMap<TaskId, (TaskRecord, Revision)>,
    revision: u64,
    /// Writes on their way.
    writes: VecDeque<(Box<TaskRecord>, Revision)>,
    nodes: BTreeMap<LaborId, Node>,
    sessions: u64,
    submitted: u128,
    /// Every attempt that an agent has begun.
    begun: BTreeMap<TaskId, BTreeSet<Attempt>>,
    told: BTreeSet<TaskId>,
    poison: BTreeSet<TaskId>,
    releases: Releases,
    seen: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            now: 1_000,
            core: TaskCore::new(Backoff::default(), seed),
            store: BTreeMap::new(),
            revision: 0,
            writes: VecDeque::new(),
            nodes: BTreeMap::new(),
            sessions: 0,
            submitted: 0,
            begun: BTreeMap::new(),
            told: BTreeSet::new(),
            poison: BTreeSet::new(),
            releases: Releases::default(),
            seen: BTreeMap::new(),
        };
        for n in 0..LABORS {
            let life = Life { labor: LaborId::new(1, n), generation: Generation::FIRST };
            world.nodes.insert(life.labor, Node::new(life));
        }
        world
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.random.bits() % below
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn event(&mut self, event: TaskEvent) {
        let effects = self.core.on_event(self.now, event);
        for effect in effects {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: TaskEffect) {
        match effect {
            TaskEffect::Store(record, follows) => {
                assert!(
                    !self.writes.iter().any(|(r, _)| r.task == record.task),
                    "two writes of one task at once"
                );
                if let TaskState::Running { labor, .. } = &record.state
                    && record.attempts > self.store[&record.task].0.attempts
                {
                    let places = self.core.places();
                    let (_, has, _) = places.iter().find(|(of, ..)| of == labor).unwrap();
                    assert!(*has <= MOST, "{labor} has {has}");
                }
                self.writes.push_back((record, follows));
            }
            TaskEffect::Send { task, attempt, life, session } => {
                let stored = &self.store[&task].0;
                assert!(
                    matches!(stored.state, TaskState::Running { attempt: a, labor, .. } if a == attempt && labor == life.labor),
                    "sent before it was stored"
                );
                let node = self.nodes.get_mut(&life.labor).filter(|n| n.life == life);
                match node.filter(|n| n.session == Some(session)) {
                    Some(node) => node.orders.push_back(Order::Run(task, attempt)),
                    None => self.event(TaskEvent::NotSent(task, attempt)),
                }
            }
            TaskEffect::Cancel { task, attempt, life } => self.order(life, Order::Cancel(task, attempt)),
            TaskEffect::AskBack { task, attempt, life } => {
                self.count("asked back");
                self.order(life, Order::AskBack(task, attempt));
            }
            TaskEffect::Forget { task, attempt, life } => self.order(life, Order::Forget(task, attempt)),
            TaskEffect::Over(record) => {
                assert_eq!(self.store[&record.task].0, *record, "told before it was stored");
                assert!(record.is_over());
                self.told.insert(record.task);
            }
        }
    }

    fn order(&mut self, life: Life, order: Order) {
        if let Some(node) = self.nodes.get_mut(&life.labor).filter(|n| n.life == life && n.session.is_some())
        {
            node.orders.push_back(order);
        }
    }

    /// One write reaches the disk. The server may die before it hears of it.
    fn write(&mut self) {
        let Some((record, follows)) = self.writes.pop_front() else { return };
        let id = record.task;
        let (old, revision) = &self.store[&id];
        assert_eq!(*revision, follows, "a write that follows nothing");
        assert!(!old.is_over(), "a task that was over is changed");
        assert!(record.attempts >= old.attempts);
        self.check_charged(&record);
        self.revision += 1;
        let revision = Revision(self.revision);
        self.store.insert(id, (*record, revision));
        if self.roll(40) == 0 {
            self.kill_server("killed after a write");
        } else {
            self.event(TaskEvent::Stored(id, revision));
        }
    }

    fn submit(&mut self) {
        self.submitted += 1;
        let task = TaskId(self.submitted);
        let retry = match self.roll(3) {
            0 => Retry::never(),
            1 => Retry::default(),
            _ => Retry::times(2),
        };
        if self.roll(8) == 0 {
            self.poison.insert(task);
        }
        let queue_until_ms = (self.roll(4) == 0).then_some(self.now + 20_000);
        let record = TaskRecord::new("farm".parse().unwrap(), task, "m", retry, self.now);
        let run_ms = (self.roll(2) == 0).then_some(60_000);
        let record = TaskRecord { queue_until_ms, run_ms, ..record };
        self.revision += 1;
        self.store.insert(task, (record.clone(), Revision(self.revision)));
        match self.roll(20) {
            // The client has its answer, the server did not get further.
            0 => self.kill_server("killed after a submit"),
            _ => self.event(TaskEvent::Known(Box::new(record), Revision(self.revision))),
        }
    }

    fn kill_server(&mut self, how: &'static str) {
        self.count(how);
        self.writes.clear();
        for node in self.nodes.values_mut() {
            node.cut();
        }
        self.core = TaskCore::new(Backoff::default(), self.random.bits());
        self.told.clear();
        self.forget_trials();
        for (record, revision) in self.store.clone().into_values() {
            self.event(TaskEvent::Known(Box::new(record), revision));
        }
        let lives = self.nodes.values().map(|n| n.life).collect();
        self.event(TaskEvent::Survivors(lives));
    }

    fn attach(&mut self, labor: LaborId) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        let life = node.life;
        node.cut();
        node.session = Some(session);
        let attempts = node.has.keys().copied().collect();
        node.reports.push_back(Report::Held { session, attempts });
        let answered = node.has.iter().filter(|(_, had)| had.end.is_some());
        let again = answered.map(|((task, attempt), had)| (*task, *attempt, had.clone()));
        node.reports.extend(again.map(|(task, attempt, had)| Report::Answered { task, attempt, had }));
        self.event(TaskEvent::Opened { life, session, places: PLACES });
    }

    fn lose_session(&mut self, labor: LaborId) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        if node.session.is_some() {
            node.cut();
            let life = node.life;
            self.event(TaskEvent::Closed(life));
        }
    }

    fn kill_node(&mut self, labor: LaborId, cause: Cause) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        let old = node.life;
        *node = Node::new(Life { labor, generation: old.generation.next() });
        self.event(TaskEvent::Closed(old));
        self.event(TaskEvent::Gone(old, cause));
    }

    /// The agent takes an order.
    fn take_order(&mut self, labor: LaborId) {
        let refuses = self.roll(12) == 0;
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        match node.orders.pop_front() {
            Some(Order::Run(task, attempt)) if refuses => {
                self.count("refused");
                self.finish(labor, task, attempt, Err(error(CallErrorCode::Overloaded, None)));
            }
            Some(Order::Run(task, attempt)) => {
                node.has.insert((task, attempt), Had { release: None, begun: false, end: None });
                node.waiting.push_back((task, attempt));
                let open = node.has.values().filter(|had| had.end.is_none()).count();
                assert!(open <= MOST * 2, "more than a labor takes");
                self.begin_waiting(labor);
            }
            Some(Order::Cancel(task, attempt)) => {
                if node.has.get(&(task, attempt)).is_some_and(|had| had.end.is_none()) {
                    self.finish(labor, task, attempt, Err(error(CallErrorCode::Cancelled, None)));
                }
            }
            Some(Order::AskBack(task, attempt))
                if node.has.get(&(task, attempt)).is_some_and(|had| !had.begun && had.end.is_none()) =>
            {
                self.count("given back");
                self.finish(labor, task, attempt, Err(error(CallErrorCode::GivenBack, None)));
            }
            Some(Order::Forget(task, attempt)) => {
                if let Some(Had { end: Some(Ok(_)), .. }) = node.has.remove(&(task, attempt)) {
                    let present = &self.store[&task].0;
                    let fenced =
                        present.attempts > attempt.0 || matches!(present.state, TaskState::Queued { .. });
                    assert!(present.is_over() || fenced, "a result is forgotten before it was stored");
                }
                self.begin_waiting(labor);
            }
            Some(Order::AskBack(..)) | None => {}
        }
    }

    /// The agent begins what waits, for as long as it has places.
    fn begin_waiting(&mut self, labor: LaborId) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        while node.has.values().filter(|had| had.begun && had.end.is_none()).count() < PLACES {
            let Some((task, attempt)) = node.waiting.pop_front() else { return };
            let Some(had) = node.has.get_mut(&(task, attempt)) else { continue };
            if had.begun || had.end.is_some() {
                continue;
            }
            (had.begun, had.release) = (true, node.release);
            assert!(self.begun.entry(task).or_default().insert(attempt), "an attempt runs twice");
            let attempts = self.begun[&task].len();
            let record = &self.store[&task].0;
            assert!(record.retry.on_loss || record.charged > 0 || attempts == 1, "at most once ran twice");
        }
    }

    fn finish(&mut self, labor: LaborId, task: TaskId, attempt: Attempt, end: Result<Content, AttemptEnd>) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        let release = node.has.get(&(task, attempt)).and_then(|had| had.release);
        let had = Had { release, begun: true, end: Some(end) };
        node.has.insert((task, attempt), had.clone());
        if node.session.is_some() {
            node.reports.push_back(Report::Answered { task, attempt, had });
        }
        self.begin_waiting(labor);
    }

    /// Some attempt on a node comes to its end.
    fn progress(&mut self, labor: LaborId) {
        let running: Vec<(TaskId, Attempt, Option<ReleaseId>)> = {
            let Some(node) = self.nodes.get(&labor) else { return };
            let running = node.has.iter().filter(|(_, had)| had.begun && had.end.is_none());
            running.map(|((task, attempt), had)| (*task, *attempt, had.release)).collect()
        };
        if running.is_empty() {
            return;
        }
        let (task, attempt, release) = running[self.roll(running.len() as u64) as usize];
        let bad = self.is_bad(release);
        if self.poison.contains(&task) || (bad && self.roll(4) == 0) {
            // It takes its plugin host with it, and all that runs there.
            self.count("a host is lost");
            let cause = Cause::Signal { signal: 11 };
            for (task, attempt, _) in running.into_iter().filter(|(.., of)| *of == release) {
                let end = error(CallErrorCode::HostEnded, Some(cause.clone()));
                self.finish(labor, task, attempt, Err(end));
            }
            return;
        }
        let end = match self.roll(5) {
            _ if bad => Err(error(CallErrorCode::Failed, None)),
            0 => Err(error(CallErrorCode::Failed, None)),
            _ => Ok(Content::Store { bytes: u64::from(attempt.0) }),
        };
        self.finish(labor, task, attempt, end);
    }

    fn report(&mut self, labor: LaborId) {
        let Some(node) = self.nodes.get_mut(&labor) else { return };
        let life = node.life;
        match node.reports.pop_front() {
            Some(Report::Held { session, attempts }) => {
                self.event(TaskEvent::Held { life, session, attempts });
            }
            Some(Report::Answered { task, attempt, had: Had { release, end: Some(end), .. } }) => {
                self.hear_answer(life, (task, attempt), end, release);
            }
            _ => {}
        }
    }

    fn step(&mut self, faults: bool) {
        let labor = LaborId::new(1, u128::from(self.roll(LABORS as u64)));
        match self.roll(if faults { 104 } else { 80 }) {
            0..20 => self.write(),
            20..40 => self.report(labor),
            40..55 => self.take_order(labor),
            55..70 => self.progress(labor),
            70..76 => {
                // Most attempts take no time, so that labors get some to wait.
                let most = if self.roll(4) == 0 { 3_000 } else { 3 };
                self.now += self.roll(most);
                self.tick();
            }
            76..80 => match self.nodes[&labor].session {
                None => self.attach(labor),
                Some(_) => self.change_release(labor),
            },
            80..90 => self.submit(),
            90..92 => {
                let task = TaskId(u128::from(self.roll(self.submitted as u64 + 1)));
                self.count("cancelled");
                self.event(TaskEvent::Cancel(task));
            }
            92..94 => {
                self.count("session lost");
                self.lose_session(labor);
            }
            94..96 => {
                self.count("session replaced");
                self.attach(labor);
            }
            96 => {
                self.count("node killed");
                self.kill_node(labor, Cause::Signal { signal: 9 });
            }
            97 => {
                self.count("node reclaimed");
                self.kill_node(labor, Cause::Reclaimed { notice: "spot".into() });
            }
            98 => self.kill_server("killed at any time"),
            99 => {
                self.now += 40_000;
                self.count("time passes");
                self.tick();
            }
            100..102 => self.begin_trial(),
            _ => self.end_trial(),
        }
        self.check();
    }

    fn check(&self) {
        for id in &self.told {
            assert!(self.core.get(*id).is_none(), "a task that is over is still at work");
        }
    }
}

impl Node {
    fn new(life: Life) -> Self {
        let (waiting, orders, reports) = Default::default();
        Self { life, session: None, has: BTreeMap::new(), waiting, orders, reports, release: None }
    }

    fn cut(&mut self) {
        self.session = None;
        self.orders.clear();
        self.reports.clear();
    }
}

fn error(code: CallErrorCode, cause: Option<Cause>) -> AttemptEnd {
    AttemptEnd::Answered { code, message: "no".into(), cause }
}

/// One world, from its seed to its end: at the end of all faults every task is over.
fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..600 {
        world.step(true);
    }
    for _ in 0..40_000 {
        if world.core.is_empty() && world.writes.is_empty() {
            break;
        }
        world.step(false);
    }
    for (record, _) in world.store.values() {
        assert!(record.is_over(), "never over: {record:?}");
    }
    world
}

#[test]
fn no_fault_loses_a_task_doubles_its_result_or_forgets_one_too_early() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let first: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut done, mut failed) = (0, BTreeMap::<&'static str, usize>::new());
    for seed in first..first + seeds {
        let world = std::panic::catch_unwind(|| run(seed));
        let world = world.unwrap_or_else(|panic| {
            eprintln!("failed with SEED={seed} SEEDS=1");
            std::panic::resume_unwind(panic)
        });
        for (what, n) in world.seen {
            *seen.entry(what).or_default() += n;
        }
        for (record, _) in world.store.values() {
            match &record.state {
                TaskState::Failed { failure, .. } => *failed.entry(failure.code()).or_default() += 1,
                _ => done += 1,
            }
        }
    }
    println!("{seeds} seeds: {done} done, {failed:?}, {seen:?}");
    if seeds >= 300 {
        let codes =
            ["task.answered", "task.lost", "task.queue_deadline", "task.cancelled", "task.quarantined"];
        for code in codes {
            assert!(failed.get(code).is_some_and(|n| *n >= 10), "{code} was hardly reached: {failed:?}");
        }
        assert!(seen["given back"] >= 10, "{seen:?}");
        for what in ["spared", "release kept", "release taken back"] {
            assert!(seen.get(what).is_some_and(|n| *n >= 100), "{what} was hardly reached: {seen:?}");
        }
    }
}
