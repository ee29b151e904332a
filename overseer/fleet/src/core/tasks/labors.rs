//! Which labor has which tasks, and where there is room.

use std::collections::{BTreeMap, BTreeSet};

use overseer_protocol::{LaborId, SessionId, TaskId};

use crate::core::Life;

/// The lives that take tasks or have some.
#[derive(Debug, Default)]
pub(super) struct Labors {
    lives: BTreeMap<Life, Places>,
    /// Where there is room, by load in thousandths.
    free: BTreeSet<(usize, Life)>,
    /// Gets nothing new, for a task waits that must run alone.
    emptying: Option<Life>,
}

#[derive(Debug, Default)]
struct Places {
    /// Open for new tasks.
    session: Option<SessionId>,
    places: usize,
    tasks: BTreeSet<TaskId>,
    /// One of its tasks must have no neighbour.
    alone: bool,
    /// Its place in `free`.
    load: Option<usize>,
}

impl Labors {
    pub(super) fn open(&mut self, life: Life, session: SessionId, places: usize) {
        let entry = self.lives.entry(life).or_default();
        (entry.session, entry.places) = (Some(session), places);
        self.index(life);
    }

    pub(super) fn close(&mut self, life: Life) {
        if let Some(entry) = self.lives.get_mut(&life) {
            entry.session = None;
            self.emptying = self.emptying.filter(|emptying| *emptying != life);
            self.index(life);
        }
    }

    /// Its tasks must have been released.
    pub(super) fn remove(&mut self, life: Life) {
        self.close(life);
        self.lives.remove(&life);
    }

    pub(super) fn take(&mut self, life: Life, task: TaskId) {
        self.lives.entry(life).or_default().tasks.insert(task);
        self.index(life);
    }

    pub(super) fn keep_alone(&mut self, life: Life) {
        if let Some(entry) = self.lives.get_mut(&life) {
            entry.alone = true;
            self.index(life);
        }
    }

    pub(super) fn release(&mut self, life: Life, task: TaskId) {
        let Some(entry) = self.lives.get_mut(&life) else { return };
        entry.tasks.remove(&task);
        entry.alone &= !entry.tasks.is_empty();
        if entry.tasks.is_empty() && entry.session.is_none() {
            self.lives.remove(&life);
        } else {
            self.index(life);
        }
    }

    /// Whether nothing else runs beside a task.
    pub(super) fn is_alone(&self, life: Life, task: TaskId) -> bool {
        self.lives.get(&life).is_some_and(|entry| entry.tasks.iter().all(|t| *t == task))
    }

    pub(super) fn tasks_of(&self, life: Life) -> Vec<TaskId> {
        self.lives.get(&life).map(|entry| entry.tasks.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn lives(&self) -> Vec<Life> {
        self.lives.keys().copied().collect()
    }

    /// A life with room for one more task.
    pub(super) fn least_loaded(&self) -> Option<(Life, SessionId)> {
        let (_, life) = self.free.first()?;
        Some((*life, self.lives.get(life)?.session?))
    }

    /// An idle life, for a task that must run alone; where there is none, one gets nothing new
    /// until it is idle.
    pub(super) fn idle(&mut self) -> Option<(Life, SessionId)> {
        let idle = |life: &Life| {
            let entry = self.lives.get(life)?;
            entry.session.filter(|_| entry.tasks.is_empty()).map(|session| (*life, session))
        };
        let (emptied, free) = (self.emptying.as_ref().and_then(idle), self.free.first());
        let found = emptied.or_else(|| free.and_then(|(_, life)| idle(life)));
        if found.is_none() && self.emptying.is_none() {
            let open = self.lives.iter().filter(|(_, entry)| entry.session.is_some());
            if let Some((life, _)) = open.min_by_key(|(life, entry)| (entry.tasks.len(), **life)) {
                let life = *life;
                self.emptying = Some(life);
                self.index(life);
            }
        }
        found
    }

    /// No task waits any more that must run alone.
    pub(super) fn stop_emptying(&mut self) {
        if let Some(life) = self.emptying.take() {
            self.index(life);
        }
    }

    /// Each life that is known: its tasks, and how many it takes.
    pub(super) fn places(&self) -> Vec<(LaborId, usize, usize)> {
        self.lives.iter().map(|(life, e)| (life.labor, e.tasks.len(), e.places)).collect()
    }

    fn index(&mut self, life: Life) {
        let kept = self.emptying == Some(life);
        let Some(entry) = self.lives.get_mut(&life) else { return };
        let room = entry.session.is_some() && !entry.alone && !kept && entry.tasks.len() < entry.places;
        let load = room.then(|| entry.tasks.len() * 1000 / entry.places.max(1));
        let old = std::mem::replace(&mut entry.load, load);
        if old != load {
            old.map(|load| self.free.remove(&(load, life)));
            load.map(|load| self.free.insert((load, life)));
        }
    }
}
