//! What the shells do with effects, in this world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overseer::core::{Care, Effect, Event, Finding, Found, Inventory, Life, Requeue, TaskEffect, TaskEvent};
use overseer::tasks::TaskRecord;
use overseer::{Cause, LaborId, LaborState, TaskId};
use overseer_protocol::{Generation, SessionId};

use super::fault::Kind;
use super::server::Server;
use super::store::{Labor, Write};
use super::world::{Down, Happening, LABORS, PLACES, World};

impl World {
    /// A server starts, for the first time or after one that died.
    pub(super) fn start_server(&mut self) {
        let (now, seed) = (self.queue.now, self.dice.roll(u64::MAX));
        let server = Server::new(self.epoch, now, seed);
        self.server = Some(server);
        for (record, revision) in self.store.tasks.clone().into_values() {
            if !record.is_over() {
                self.task_event(TaskEvent::Known(Box::new(record), revision));
            }
        }
        let mut survivors = BTreeSet::new();
        let mut strangers = self.inventory();
        for labor in self.store.labors.clone().into_values() {
            let there = strangers.remove(&labor.life) || labor.invited.is_some();
            let found = Found::of(labor.state, labor.cause.as_ref(), there);
            if found == Found::Running {
                survivors.insert(labor.life);
            }
            let (life, unwanted) = (labor.life, labor.unwanted);
            let invited = labor.invited.map(|until| Duration::from_millis(until.saturating_sub(now)));
            if let Some(server) = &mut self.server {
                server.latest.insert(life.labor, labor);
            }
            self.fleet_event(Event::Adopted { life, found, unwanted, invited });
        }
        self.task_event(TaskEvent::Survivors(survivors));
        let epoch = self.epoch;
        for life in strangers {
            self.queue.after(1, Happening::EndLate(epoch, life));
        }
        self.top_up();
        self.queue.after(100, Happening::ServerTick(epoch));
        self.queue.after(60_000, Happening::Reconcile(epoch));
    }

    /// Nodes that the adapter has.
    fn inventory(&self) -> BTreeSet<Life> {
        self.nodes.iter().filter(|(_, node)| !node.invited).map(|(life, _)| *life).collect()
    }

    /// Somebody is given an invitation, once it is stored.
    fn invite(&mut self) {
        let ttl = self.delay(60_000);
        let now = self.queue.now;
        let Some(server) = &self.server else { return };
        if server.fleet.admit(1).is_err() {
            return;
        }
        self.ids += 1;
        let life = Life { labor: LaborId::new(now, self.ids), generation: Generation::FIRST };
        self.fleet_event(Event::Invite { id: life.labor, ttl: Duration::from_millis(ttl) });
        let invited = Some(now + ttl);
        let labor = Labor { life, state: LaborState::Booting, unwanted: true, cause: None, invited };
        self.labor_write(Write::Intent(labor));
    }

    /// As many labors as there should be, without those that were invited.
    fn top_up(&mut self) {
        loop {
            let Some(server) = &self.server else { return };
            let lives = server.fleet.labors().map(|(life, _)| life.labor);
            let wanted = lives.filter(|labor| !server.fleet.is_invited(*labor)).count();
            if wanted >= LABORS || server.fleet.admit(1).is_err() {
                return;
            }
            self.ids += 1;
            let id = LaborId::new(self.queue.now, self.ids);
            self.fleet_event(Event::Start(id));
        }
    }

    fn kill_server(&mut self) {
        let Some(server) = self.server.take() else { return };
        // What was on its way to the disk may have got there: labors in order, tasks each for itself.
        for write in server.labor_writes {
            if self.dice.one_in(2) {
                break;
            }
            self.store.write(&write);
        }
        for write in server.task_writes.into_values() {
            if self.dice.one_in(2) {
                self.store.write(&write);
            }
        }
        for (session, life) in server.sessions {
            self.order(life, session, Down::Closed);
        }
        self.epoch += 1;
        // Now and then it stays away for longer than any lease.
        let away = if self.dice.one_in(8) { 45_000 } else { 100 + self.dice.roll(8_000) };
        self.queue.after(away, Happening::ServerStarts);
    }

    pub(super) fn fleet_event(&mut self, event: Event) {
        let now = self.queue.now;
        let Some(server) = &mut self.server else { return };
        let name = format!("{event:?}");
        let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        for (life, state) in server.fleet.labors() {
            let invited = if server.fleet.is_invited(life.labor) { "invited " } else { "" };
            *self.covered.entry((format!("{invited}{state}"), name.clone())).or_default() += 1;
        }
        let attached = match &event {
            Event::Attached { life, session, .. } => Some((*life, *session)),
            _ => None,
        };
        let effects = server.fleet.on_event(server.clock(now), event);
        for effect in effects {
            let for_tasks = effect.for_tasks(Requeue::default(), |_| PLACES);
            self.carry_out(effect);
            if let Some(event) = for_tasks {
                self.task_event(event);
            }
        }
        if let Some((life, session)) = attached
            && self.server.as_ref().is_some_and(|s| !s.is_present(life))
        {
            self.close(life, Some(session));
        }
    }

    fn close(&mut self, life: Life, which: Option<SessionId>) {
        let Some(server) = &mut self.server else { return };
        let fits = |(id, of): &(&SessionId, &Life)| **of == life && which.is_none_or(|which| which == **id);
        let closed: Vec<SessionId> = server.sessions.iter().filter(fits).map(|(id, _)| *id).collect();
        server.sessions.retain(|session, _| !closed.contains(session));
        for session in closed {
            self.order(life, session, Down::Closed);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let Some(server) = &mut self.server else { return };
        match effect {
            Effect::Provision(life) => {
                let labor =
                    Labor { life, state: LaborState::Requested, unwanted: false, cause: None, invited: None };
                self.labor_write(Write::Intent(labor));
            }
            Effect::Terminate(life) => {
                assert!(!server.fleet.is_invited(life.labor), "an adapter is asked for {life:?}");
                self.terminate(life);
            }
            Effect::Load(life, session, _) => self.order(life, session, Down::Load),
            Effect::SendDrain(life, session) => self.order(life, session, Down::Drain),
            Effect::SendShutdown(life, session, _) => self.order(life, session, Down::Shutdown),
            Effect::CloseSession(life, which) => self.close(life, which),
            Effect::State(life, state, cause) => {
                let unwanted = !server.fleet.is_wanted(life.labor);
                if state != LaborState::Terminated
                    && let Some(latest) = server.latest.get_mut(&life.labor)
                {
                    *latest = Labor { life, state, unwanted, cause, invited: latest.invited };
                    let write = Write::State(latest.clone());
                    self.labor_write(write);
                }
            }
            Effect::Forget(labor) => {
                if server.latest.remove(&labor).is_some() {
                    self.labor_write(Write::Forget(labor));
                }
            }
            Effect::OpenForCalls(..)
            | Effect::CloseForCalls(_)
            | Effect::Changed(..)
            | Effect::Upgrading(_)
            | Effect::Upgraded(_)
            | Effect::Tell(_)
            | Effect::Stops(_) => {}
        }
    }

    fn labor_write(&mut self, write: Write) {
        let delay = self.delay(10);
        let Some(server) = &mut self.server else { return };
        server.labor_writes.push_back(write);
        if server.labor_writes.len() == 1 {
            self.queue.after(delay, Happening::LaborWritten(server.epoch));
        }
    }

    /// The oldest write of a labor is on the disk.
    pub(super) fn labor_written(&mut self) {
        let delay = self.delay(10);
        let Some(server) = &mut self.server else { return };
        let Some(write) = server.labor_writes.pop_front() else { return };
        if !server.labor_writes.is_empty() {
            self.queue.after(delay, Happening::LaborWritten(server.epoch));
        }
        // An intent of a life that is over by now is left out.
        if let Write::Intent(labor) = &write {
            let wanted = server.fleet.labors().any(|l| l == (labor.life, labor.state));
            if !wanted {
                return;
            }
            server.latest.insert(labor.life.labor, labor.clone());
            if labor.invited.is_none() {
                server.asked_for.insert(labor.life, false);
            }
        }
        self.store.write(&write);
        if self.fault(Kind::KilledAfterWrite, 150) {
            return self.kill_server();
        }
        match write {
            Write::Intent(labor) if labor.invited.is_none() => self.provision(labor.life),
            // Only now somebody has the document; not everybody makes use of it.
            Write::Intent(labor) if !self.dice.one_in(5) => self.paste(labor.life),
            _ => {}
        }
    }

    fn provision(&mut self, life: Life) {
        let record = self.store.labors.get(&life.labor);
        assert!(record.is_some_and(|r| r.life == life), "a node is asked for without its intent: {life:?}");
        let (epoch, takes) = (self.epoch, self.delay(300));
        let refused = self.over.contains(&life);
        let lost = self.fault(Kind::ProvisionUnanswered, 15);
        let answer = if refused {
            Err(false)
        } else if self.fault(Kind::ProvisionRefused, 10) {
            Err(true)
        } else {
            self.make_node(life);
            if lost { Err(true) } else { Ok(()) }
        };
        self.queue.after(takes, Happening::Provisioned(epoch, life, answer));
    }

    pub(super) fn provisioned(&mut self, life: Life, answer: Result<(), bool>) {
        let Some(server) = &mut self.server else { return };
        let ending = server.asked_for.remove(&life) == Some(true);
        let over =
            !server.fleet.labors().any(|(present, state)| present == life && state != LaborState::Backoff);
        if over || ending {
            let epoch = server.epoch;
            return self.queue.after(1, Happening::EndLate(epoch, life));
        }
        let event = match answer {
            Ok(()) => Event::Accepted(life),
            Err(retryable) => {
                let cause = Cause::AdapterError { reason: "no".into() };
                Event::Refused { life, cause, retryable }
            }
        };
        self.fleet_event(event);
    }

    /// Until it is confirmed that a node which came too late has ended.
    pub(super) fn end_late(&mut self, life: Life) {
        let epoch = self.epoch;
        if self.fault(Kind::TerminateRefused, 8) {
            return self.queue.after(5_000, Happening::EndLate(epoch, life));
        }
        self.over.insert(life);
        self.end_node(life, Cause::Signal { signal: 9 }, false);
        self.queue.after(1, Happening::Told(epoch, Event::Ended(life, Cause::Asked)));
    }

    fn terminate(&mut self, life: Life) {
        let (epoch, takes) = (self.epoch, self.delay(200));
        let Some(server) = &mut self.server else { return };
        let asked_for = server.asked_for.get_mut(&life).map(|ending| *ending = true).is_some();
        if self.fault(Kind::TerminateRefused, 10) {
            return self.queue.after(takes, Happening::Told(epoch, Event::TerminateFailed(life)));
        }
        self.over.insert(life);
        self.end_node(life, Cause::Signal { signal: 9 }, true);
        // Nothing was there, and it may be made yet: then it is ended as one that came too late.
        if !asked_for && !self.fault(Kind::TerminateUnanswered, 10) {
            self.queue.after(takes, Happening::Told(epoch, Event::Ended(life, Cause::Asked)));
        }
    }

    pub(super) fn submitted(&mut self, record: Box<TaskRecord>) {
        let revision = self.store.write(&Write::Submit(record.clone()));
        if self.fault(Kind::KilledAfterWrite, 60) {
            return self.kill_server();
        }
        self.task_event(TaskEvent::Known(record, revision));
    }

    pub(super) fn task_written(&mut self, task: TaskId) {
        let Some(server) = &mut self.server else { return };
        let Some(write) = server.task_writes.remove(&task) else { return };
        let revision = self.store.write(&write);
        if self.fault(Kind::KilledAfterWrite, 150) {
            return self.kill_server();
        }
        self.task_event(TaskEvent::Stored(task, revision));
    }

    pub(super) fn task_event(&mut self, event: TaskEvent) {
        let now = self.queue.now;
        let Some(server) = &mut self.server else { return };
        let effects = server.tasks.on_event(now, event);
        for effect in effects {
            self.carry_out_task(effect);
        }
    }

    fn carry_out_task(&mut self, effect: TaskEffect) {
        let delay = self.delay(15);
        let Some(server) = &mut self.server else { return };
        let epoch = server.epoch;
        match effect {
            TaskEffect::Store(record, follows) => {
                let task = record.task;
                let before = server.task_writes.insert(task, Write::Task(record, follows));
                assert!(before.is_none(), "two writes of one task at once");
                self.queue.after(delay, Happening::TaskWritten(epoch, task));
            }
            TaskEffect::Send { task, attempt, life, session } => {
                if server.sessions.contains_key(&session) {
                    self.order(life, session, Down::Run(task, attempt));
                } else {
                    self.task_event(TaskEvent::NotSent(task, attempt));
                }
            }
            TaskEffect::Cancel { task, attempt, life } => {
                if let Some(session) = server.session_of(life) {
                    self.order(life, session, Down::Cancel(task, attempt));
                }
            }
            TaskEffect::AskBack { task, attempt, life } => {
                if let Some(session) = server.session_of(life) {
                    self.order(life, session, Down::AskBack(task, attempt));
                }
            }
            TaskEffect::Forget { task, attempt, life } => {
                if let Some(session) = server.session_of(life) {
                    self.order(life, session, Down::Forget(task, attempt));
                }
            }
            TaskEffect::Over(record) => {
                assert_eq!(self.store.tasks[&record.task].0, *record, "told before it was stored");
            }
        }
    }

    pub(super) fn reconcile(&mut self, epoch: u64) {
        self.queue.after(60_000, Happening::Reconcile(epoch));
        let nodes = self.inventory();
        let records = self.store.labors.values().map(|l| l.life).collect();
        let Some(server) = &mut self.server else { return };
        let inventory = Inventory {
            labors: server.fleet.labors().collect::<BTreeMap<_, _>>(),
            nodes,
            asked_for: server.asked_for.keys().copied().collect(),
            sessions: server.sessions.values().copied().collect(),
            records,
            invited: {
                let lives = server.fleet.labors().map(|(life, _)| life);
                lives.filter(|life| server.fleet.is_invited(life.labor)).collect()
            },
        };
        let pass = server.reconciler.pass(&inventory, &Care::default(), true);
        for finding in pass.act {
            match finding {
                Finding::IntentWithoutMachine(life) => {
                    let cause = Cause::AdapterError { reason: "gone".into() };
                    self.fleet_event(Event::Ended(life, cause));
                }
                Finding::MachineWithoutIntent(life) => {
                    self.over.insert(life);
                    self.end_node(life, Cause::Signal { signal: 9 }, true);
                }
                Finding::SessionWithoutLabor(life) => self.close(life, None),
                Finding::RecordWithoutLabor(life) => self.labor_write(Write::Forget(life.labor)),
            }
        }
        self.top_up();
    }

    /// Something goes wrong by itself.
    pub(super) fn any_fault(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let next = 200 + self.delay(2_500);
        self.queue.after(next, Happening::Fault);
        let lives: Vec<Life> = self.nodes.keys().copied().collect();
        if lives.is_empty() {
            return;
        }
        let life = lives[self.dice.roll(lives.len() as u64) as usize];
        let now = self.queue.now;
        let while_ = 500 + self.delay(40_000);
        let kinds = [
            Kind::KilledAnyTime,
            Kind::NodeKilled,
            Kind::NodeReclaimed,
            Kind::NodeVanished,
            Kind::SessionCut,
            Kind::SessionCut,
            Kind::DeafServer,
            Kind::DeafAgent,
            Kind::HostCrashed,
            Kind::Cancelled,
            Kind::Cancelled,
            Kind::Replaced,
            Kind::Invited,
        ];
        let kind = kinds[self.dice.roll(kinds.len() as u64) as usize];
        if !self.fault(kind, 1) {
            return;
        }
        match kind {
            Kind::KilledAnyTime => self.kill_server(),
            Kind::NodeKilled => self.end_node(life, Cause::Signal { signal: 9 }, true),
            Kind::NodeReclaimed => {
                let cause = Cause::Reclaimed { notice: "spot".into() };
                let at = Happening::Told(self.epoch, Event::Going(life, cause));
                self.queue.after(1, at);
            }
            Kind::NodeVanished => self.end_node(life, Cause::OutOfMemory, false),
            Kind::SessionCut => self.drop_session(life),
            Kind::DeafServer | Kind::DeafAgent => {
                let direction = usize::from(kind == Kind::DeafAgent);
                if let Some(node) = self.nodes.get_mut(&life) {
                    node.deaf[direction] = now + while_;
                }
            }
            Kind::HostCrashed => self.crash_host(life),
            Kind::Invited => self.invite(),
            Kind::Cancelled => {
                let task = TaskId(u128::from(1 + self.dice.roll(self.ids as u64 + 1)));
                self.task_event(TaskEvent::Cancel(task));
            }
            _ => {
                match self.dice.one_in(2) {
                    true => self.fleet_event(Event::Drain(life.labor)),
                    false => self.fleet_event(Event::Terminate(life.labor, Cause::Asked)),
                }
                self.top_up();
            }
        }
    }
}
