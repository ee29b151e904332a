//! A node, the agent on it, and what the agent does.

use std::collections::{BTreeMap, VecDeque};

use overseer::core::{Event, Life, Millis, TaskEvent, Trust};
use overseer::tasks::{AttemptEnd, Content, TaskState};
use overseer::{Attempt, CallErrorCode, Cause, TaskId};
use overseer_protocol::SessionId;

use super::fault::Kind;
use super::server::options;
use super::world::{Down, Happening, PLACES, Up, World};

/// What an agent has of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Had {
    Waits,
    Runs,
    Answered(Result<Content, AttemptEnd>),
}

/// One node, for as long as it is there.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) joined: bool,
    /// It is somebody else's: no adapter tells of it.
    pub(super) invited: bool,
    pub(super) session: Option<SessionId>,
    /// The release is up.
    pub(super) ready: bool,
    pub(super) draining: bool,
    /// Sessions and answers of before do not count any more.
    pub(super) dials: u64,
    pub(super) has: BTreeMap<(TaskId, Attempt), Had>,
    /// Those that wait for a place, and some that do not any more.
    pub(super) waiting: VecDeque<(TaskId, Attempt)>,
    /// By its own clock, said in everybody's.
    pub(super) lease_until: Millis,
    pub(super) heard: Millis,
    /// How fast its clock goes, in thousandths.
    pub(super) pace: u64,
    /// Nothing gets through until then: to the server, to the agent.
    pub(super) deaf: [Millis; 2],
    /// When the last message in each direction arrives: they come in order.
    pub(super) last: [Millis; 2],
}

impl Node {
    pub(super) fn new(now: Millis, lease: Millis, pace: u64) -> Self {
        Self {
            joined: false,
            invited: false,
            session: None,
            ready: false,
            draining: false,
            dials: 0,
            has: BTreeMap::new(),
            waiting: VecDeque::new(),
            lease_until: now + lease * 1000 / pace,
            heard: now,
            pace,
            deaf: [0; 2],
            last: [0; 2],
        }
    }

    /// When a message in that direction arrives.
    pub(super) fn arrival(&mut self, now: Millis, delay: Millis, direction: usize) -> Millis {
        let at = (now + delay).max(self.deaf[direction]).max(self.last[direction]);
        self.last[direction] = at;
        at
    }

    pub(super) fn running(&self) -> usize {
        self.has.values().filter(|had| **had == Had::Runs).count()
    }
}

/// Towards the server.
pub(super) const UP: usize = 0;
/// Towards the agent.
pub(super) const DOWN: usize = 1;

impl World {
    /// A node comes up.
    pub(super) fn make_node(&mut self, life: Life) {
        for other in self.nodes.keys() {
            assert!(other.labor != life.labor, "{other:?} still lives beside {life:?}");
        }
        let lease = options().lease.as_millis() as u64;
        let pace = 995 + self.dice.roll(11);
        let now = self.queue.now;
        self.nodes.insert(life, Node::new(now, lease + 60_000, pace));
        let boot = self.delay(2_000);
        self.queue.after(boot, Happening::Dial(life, 0));
        self.queue.after(1000, Happening::AgentTick(life));
    }

    /// The document of an invitation is used on a machine, or lies around for too long.
    pub(super) fn paste(&mut self, life: Life) {
        let (boot, now) = (self.delay(70_000), self.queue.now);
        let lease = options().lease.as_millis() as u64;
        let node = Node::new(now + boot, lease, 995 + self.dice.roll(11));
        self.nodes.insert(life, Node { invited: true, ..node });
        self.queue.after(boot, Happening::Dial(life, 0));
        self.queue.after(boot + 1000, Happening::AgentTick(life));
    }

    /// A node ends; its adapter may tell.
    pub(super) fn end_node(&mut self, life: Life, cause: Cause, tells: bool) {
        let Some(mut node) = self.nodes.remove(&life) else { return };
        if let Some(session) = node.session {
            let delay = self.delay(10);
            let at = node.arrival(self.queue.now, delay, UP);
            let detached = Up::Event(Event::Detached(life, session));
            self.queue.at(at, Happening::Up(session, life, detached));
        }
        if !tells || node.invited || self.fault(Kind::NoticeLost, 12) {
            return;
        }
        let delay = self.delay(50);
        let ended = Event::Ended(life, cause);
        if self.fault(Kind::NoticeDoubled, 12) {
            let late = self.delay(20_000);
            self.queue.after(late, Happening::Told(self.epoch, ended.clone()));
        }
        self.queue.after(delay, Happening::Told(self.epoch, ended));
    }

    pub(super) fn agent_tick(&mut self, life: Life) {
        let now = self.queue.now;
        let Some(node) = self.nodes.get_mut(&life) else { return };
        if now >= node.lease_until {
            return self.end_node(life, Cause::Exited { code: 12 }, true);
        }
        let lease = options().lease.as_millis() as u64;
        let silent = node.session.is_some() && now >= node.heard + lease / 3;
        let next = (1000 * 1000 / node.pace).min(node.lease_until.saturating_sub(now)).max(1);
        self.queue.after(next, Happening::AgentTick(life));
        if silent {
            self.drop_session(life);
        } else {
            self.say(life, Up::Beat);
        }
    }

    /// The agent gives its session up and dials again.
    pub(super) fn drop_session(&mut self, life: Life) {
        let Some(node) = self.nodes.get_mut(&life) else { return };
        if let Some(session) = node.session.take() {
            let at = node.arrival(self.queue.now, 5, UP);
            self.queue.at(at, Happening::Up(session, life, Up::Event(Event::Detached(life, session))));
        }
        self.dial_soon(life);
    }

    pub(super) fn dial_soon(&mut self, life: Life) {
        let wait = 50 + self.delay(2_000);
        let Some(node) = self.nodes.get_mut(&life) else { return };
        node.dials += 1;
        self.queue.after(wait, Happening::Dial(life, node.dials));
    }

    pub(super) fn dial(&mut self, life: Life, dial: u64) {
        let now = self.queue.now;
        let Some(node) = self.nodes.get_mut(&life).filter(|n| n.dials == dial && n.session.is_none()) else {
            return;
        };
        let through = node.deaf.iter().all(|until| *until <= now);
        let Some(server) = self.server.as_mut().filter(|_| through) else { return self.dial_soon(life) };
        if !server.is_present(life) {
            // It is refused for good.
            return self.end_node(life, Cause::Exited { code: 10 }, true);
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        server.sessions.insert(session, life);
        let first = !std::mem::replace(&mut node.joined, true);
        (node.session, node.heard, node.last) = (Some(session), now, [now; 2]);
        node.lease_until = now + options().lease.as_millis() as u64 * 1000 / node.pace;
        let (ready, draining) = (node.ready, node.draining);
        let attempts = node.has.keys().copied().collect();
        let answers: Vec<TaskEvent> = node
            .has
            .iter()
            .filter_map(|((task, attempt), had)| match had {
                Had::Waits | Had::Runs => None,
                Had::Answered(end) => {
                    let (task, attempt, end) = (*task, *attempt, end.clone());
                    Some(TaskEvent::Answered { life, task, attempt, end, trust: Trust::Full })
                }
            })
            .collect();
        self.say(life, Up::Task(TaskEvent::Held { life, session, attempts }));
        answers.into_iter().for_each(|answer| self.say(life, Up::Task(answer)));
        if first {
            self.fleet_event(Event::Joined(life));
        }
        self.fleet_event(Event::Attached { life, session, ready, release: None, draining });
    }

    /// Says something over the session of an agent, if it has one.
    pub(super) fn say(&mut self, life: Life, up: Up) {
        let delay = self.delay(15);
        let now = self.queue.now;
        let Some(node) = self.nodes.get_mut(&life) else { return };
        let Some(session) = node.session else { return };
        let at = node.arrival(now, delay, UP);
        self.queue.at(at, Happening::Up(session, life, up));
    }

    pub(super) fn up(&mut self, session: SessionId, life: Life, up: Up) {
        let Some(server) = self.server.as_mut().filter(|s| s.sessions.contains_key(&session)) else { return };
        match up {
            Up::Event(event) => {
                if matches!(event, Event::Detached(..)) {
                    server.sessions.remove(&session);
                }
                self.fleet_event(event);
            }
            Up::Task(event) => self.task_event(event),
            Up::Beat => {
                self.order(life, session, Down::Lease);
                self.fleet_event(Event::Heard(life));
            }
        }
    }

    /// Says something to an agent.
    pub(super) fn order(&mut self, life: Life, session: SessionId, down: Down) {
        let delay = self.delay(15);
        let now = self.queue.now;
        if let Some(node) = self.nodes.get_mut(&life).filter(|n| n.session == Some(session)) {
            let at = node.arrival(now, delay, DOWN);
            self.queue.at(at, Happening::Down(session, life, down));
        }
    }

    pub(super) fn down(&mut self, session: SessionId, life: Life, down: Down) {
        let now = self.queue.now;
        let Some(node) = self.nodes.get_mut(&life).filter(|n| n.session == Some(session)) else { return };
        node.heard = now;
        match down {
            Down::Lease => node.lease_until = now + options().lease.as_millis() as u64 * 1000 / node.pace,
            Down::Load => {
                let good = !self.fault(Kind::LoadFailed, 12);
                let delay = self.delay(800);
                self.queue.after(delay, Happening::Loads(life, good));
            }
            Down::Drain => {
                node.draining = true;
                for (task, attempt) in std::mem::take(&mut node.waiting) {
                    self.answer_waiting(life, task, attempt, CallErrorCode::Draining);
                }
                self.drained(life);
            }
            Down::Shutdown => {
                self.say(life, Up::Event(Event::Left(life, Cause::Asked)));
                self.end_node(life, Cause::Exited { code: 0 }, true);
            }
            Down::Run(task, attempt) => self.run_task(life, task, attempt),
            Down::Cancel(task, attempt) => {
                self.answer_waiting(life, task, attempt, CallErrorCode::Cancelled);
                if self.has(life, task, attempt) == Some(&Had::Runs) {
                    self.answer(life, task, attempt, Err(error(CallErrorCode::Cancelled, None)));
                }
            }
            Down::AskBack(task, attempt) => {
                self.answer_waiting(life, task, attempt, CallErrorCode::GivenBack);
            }
            Down::Forget(task, attempt) => {
                let had = node.has.remove(&(task, attempt));
                if let Some(Had::Answered(Ok(_))) = had {
                    let record = &self.store.tasks[&task].0;
                    let fenced =
                        record.attempts > attempt.0 || matches!(record.state, TaskState::Queued { .. });
                    assert!(
                        record.is_over() || fenced,
                        "a result is forgotten before it is stored: {record:?}"
                    );
                }
                self.begin_waiting(life);
            }
            Down::Closed => {
                node.session = None;
                self.dial_soon(life);
            }
        }
    }

    pub(super) fn loads(&mut self, life: Life, good: bool) {
        let Some(node) = self.nodes.get_mut(&life) else { return };
        if good {
            node.ready = true;
            self.say(life, Up::Event(Event::Loaded(life, None)));
            self.say(life, Up::Event(Event::Ready(life, None)));
        } else {
            let cause = Cause::BootFailed { phase: overseer::BootPhase::Load, reason: "no room".into() };
            self.say(life, Up::Event(Event::NotLoaded(life, None, cause)));
        }
    }

    pub(super) fn run_task(&mut self, life: Life, task: TaskId, attempt: Attempt) {
        let Some(node) = self.nodes.get_mut(&life) else { return };
        if node.has.contains_key(&(task, attempt)) {
            return;
        }
        if node.draining || !node.ready {
            node.has.insert((task, attempt), Had::Runs);
            return self.answer(life, task, attempt, Err(error(CallErrorCode::Draining, None)));
        }
        node.has.insert((task, attempt), Had::Waits);
        node.waiting.push_back((task, attempt));
        self.begin_waiting(life);
    }

    /// The agent begins what waits, for as long as it has places.
    fn begin_waiting(&mut self, life: Life) {
        while let Some(node) = self.nodes.get_mut(&life).filter(|node| node.running() < PLACES) {
            let Some((task, attempt)) = node.waiting.pop_front() else { return };
            let Some(had @ Had::Waits) = node.has.get_mut(&(task, attempt)) else { continue };
            *had = Had::Runs;
            self.begin(life, task, attempt);
        }
    }

    fn begin(&mut self, life: Life, task: TaskId, attempt: Attempt) {
        let record = self.store.tasks[&task].0.clone();
        let stored = matches!(record.state, TaskState::Running { attempt: a, labor, .. } if a == attempt && labor == life.labor);
        assert!(stored || record.attempts >= attempt.0, "an attempt runs that is not stored: {record:?}");
        let begun = self.begun.entry(task).or_default();
        assert!(begun.insert(attempt), "attempt {attempt:?} of {task} runs twice");
        let once = !record.retry.on_loss && record.charged == 0;
        assert!(!once || begun.len() == 1, "a task that must not run twice does: {record:?}");
        // Most are short, so that labors get some to wait; and then one is not.
        let most = if self.dice.roll(4) == 0 { 20_000 } else { 12 };
        let takes = self.delay(most);
        self.queue.after(takes, Happening::TaskEnds(life, task, attempt));
    }

    fn has(&self, life: Life, task: TaskId, attempt: Attempt) -> Option<&Had> {
        self.nodes.get(&life)?.has.get(&(task, attempt))
    }

    /// For one that has not begun.
    fn answer_waiting(&mut self, life: Life, task: TaskId, attempt: Attempt, code: CallErrorCode) {
        if self.has(life, task, attempt) == Some(&Had::Waits) {
            self.answer(life, task, attempt, Err(error(code, None)));
        }
    }

    pub(super) fn task_ends(&mut self, life: Life, task: TaskId, attempt: Attempt) {
        let Some(node) = self.nodes.get(&life) else { return };
        if node.has.get(&(task, attempt)) != Some(&Had::Runs) {
            return;
        }
        if self.poison.contains(&task) || self.fault(Kind::HostCrashed, 60) {
            return self.crash_host(life);
        }
        let end = match self.dice.roll(8) {
            0 => Err(error(CallErrorCode::Failed, None)),
            _ => Ok(Content::Store { bytes: u64::from(attempt.0) }),
        };
        self.answer(life, task, attempt, end);
    }

    pub(super) fn crash_host(&mut self, life: Life) {
        let Some(node) = self.nodes.get(&life) else { return };
        let running: Vec<_> = node.has.iter().filter(|(_, h)| **h == Had::Runs).map(|(k, _)| *k).collect();
        for (task, attempt) in running {
            let cause = Some(Cause::Signal { signal: 11 });
            self.answer(life, task, attempt, Err(error(CallErrorCode::HostEnded, cause)));
        }
    }

    pub(super) fn answer(
        &mut self,
        life: Life,
        task: TaskId,
        attempt: Attempt,
        end: Result<Content, AttemptEnd>,
    ) {
        let Some(node) = self.nodes.get_mut(&life) else { return };
        node.has.insert((task, attempt), Had::Answered(end.clone()));
        let trust = Trust::Full;
        self.say(life, Up::Task(TaskEvent::Answered { life, task, attempt, end, trust }));
        self.begin_waiting(life);
        self.drained(life);
    }

    pub(super) fn drained(&mut self, life: Life) {
        let Some(node) = self.nodes.get(&life) else { return };
        if node.draining && node.running() == 0 {
            self.say(life, Up::Event(Event::Drained(life)));
        }
    }
}

fn error(code: CallErrorCode, cause: Option<Cause>) -> AttemptEnd {
    AttemptEnd::Answered { code, message: "no".into(), cause }
}
