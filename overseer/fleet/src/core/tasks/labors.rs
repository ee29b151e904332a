//! Which labor has which tasks, and where there is room.
//!
//! A labor has as many places as it runs tasks at once. While its tasks are short it is given some more,
//! which wait there for a place: recording an attempt takes about as long as running a short one, and
//! meanwhile the labor would have nothing to do. Tasks that wait for longer than that, because one
//! before them is not short after all, are to be asked back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use overseer_protocol::{LaborId, SessionId, TaskId};

use crate::core::{Life, Millis};

/// Most tasks that wait on a labor, for each of its places.
pub(super) const AHEAD: usize = 2;
/// Up to what an attempt is short.
const SHORT: Millis = 20;
/// More than this counts as this: a labor has to do with some short ones after a long one.
const LONG: Millis = 1_000;
/// How long tasks may wait on a labor on which nothing ends.
const LATE: Millis = 200;

/// The lives that take tasks or have some.
#[derive(Debug, Default)]
pub(super) struct Labors {
    lives: BTreeMap<Life, Places>,
    /// Where there is room, by load in thousandths.
    free: BTreeSet<(usize, Life)>,
    /// Where tasks wait, by the time until which they may.
    late: BTreeSet<(Millis, Life)>,
    /// Gets nothing new, for a task waits that must run alone.
    emptying: Option<Life>,
}

#[derive(Debug, Default)]
struct Places {
    /// Open for new tasks.
    session: Option<SessionId>,
    places: usize,
    /// Since when each runs, as far as can be seen from here; none: it waits there for a place.
    tasks: BTreeMap<TaskId, Option<Millis>>,
    /// Those that wait, in the order in which they were given.
    waiting: VecDeque<TaskId>,
    /// How long an attempt takes there, of late.
    typical: Option<Millis>,
    /// When one ended last, or began to wait.
    moved: Millis,
    /// One of its tasks must have no neighbour.
    alone: bool,
    /// Its place in `free`.
    load: Option<usize>,
    /// Its place in `late`.
    late: Option<Millis>,
}

impl Places {
    /// Whether one more would wait there for a place.
    fn is_full(&self) -> bool {
        self.session.is_some() && self.tasks.len() - self.waiting.len() >= self.places
    }

    /// Tasks at most, with those that wait.
    fn most(&self) -> usize {
        let short = self.typical.is_some_and(|typical| typical <= SHORT);
        self.places + if short { AHEAD * self.places } else { 0 }
    }

    fn observe(&mut self, took: Millis) {
        let took = took.min(LONG);
        self.typical = Some(self.typical.map_or(took, |typical| (3 * typical + took) / 4));
    }
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

    pub(super) fn take(&mut self, now: Millis, life: Life, task: TaskId) {
        let entry = self.lives.entry(life).or_default();
        let waits = entry.is_full();
        if waits {
            entry.waiting.push_back(task);
            entry.moved = now;
        }
        entry.tasks.insert(task, (!waits).then_some(now));
        self.index(life);
    }

    pub(super) fn keep_alone(&mut self, life: Life) {
        if let Some(entry) = self.lives.get_mut(&life) {
            entry.alone = true;
            self.index(life);
        }
    }

    pub(super) fn release(&mut self, now: Millis, life: Life, task: TaskId) {
        let Some(entry) = self.lives.get_mut(&life) else { return };
        match entry.tasks.remove(&task) {
            Some(Some(since)) => entry.observe(now.saturating_sub(since)),
            _ => entry.waiting.retain(|waits| *waits != task),
        }
        if !entry.is_full()
            && let Some(next) = entry.waiting.pop_front()
        {
            entry.tasks.insert(next, Some(now));
        }
        entry.moved = now;
        entry.alone &= !entry.tasks.is_empty();
        if entry.tasks.is_empty() && entry.session.is_none() {
            self.lives.remove(&life);
        } else {
            self.index(life);
        }
    }

    /// Whether nothing else runs beside a task. What waits there for a place does not: the answer of what
    /// has it comes first.
    pub(super) fn is_alone(&self, life: Life, task: TaskId) -> bool {
        let running = |entry: &Places| entry.tasks.iter().all(|(t, since)| *t == task || since.is_none());
        self.lives.get(&life).is_some_and(running)
    }

    pub(super) fn tasks_of(&self, life: Life) -> Vec<TaskId> {
        self.lives.get(&life).map(|entry| entry.tasks.keys().copied().collect()).unwrap_or_default()
    }

    /// The next life on which tasks have waited for too long. It gets none to wait for a while.
    pub(super) fn late(&mut self, now: Millis) -> Option<Life> {
        let (_, life) = *self.late.first().filter(|(at, _)| *at <= now)?;
        let entry = self.lives.get_mut(&life)?;
        (entry.moved, entry.typical) = (now, Some(LONG));
        self.index(life);
        Some(life)
    }

    /// When that is to be looked at.
    pub(super) fn next_late(&self) -> Option<Millis> {
        self.late.first().map(|(at, _)| *at)
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
        let room = entry.session.is_some() && !entry.alone && !kept && entry.tasks.len() < entry.most();
        let load = room.then(|| entry.tasks.len() * 1000 / entry.places.max(1));
        let old = std::mem::replace(&mut entry.load, load);
        if old != load {
            old.map(|load| self.free.remove(&(load, life)));
            load.map(|load| self.free.insert((load, life)));
        }
        let waits = entry.session.is_some() && entry.tasks.len() > entry.places;
        let late = waits.then_some(entry.moved + LATE);
        let old = std::mem::replace(&mut entry.late, late);
        if old != late {
            old.map(|late| self.late.remove(&(late, life)));
            late.map(|late| self.late.insert((late, life)));
        }
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::Generation;

    use super::*;

    fn life() -> Life {
        Life { labor: LaborId::new(1, 1), generation: Generation::FIRST }
    }

    /// With two places, whose tasks have taken so long.
    fn labor(took: Millis) -> Labors {
        let mut labors = Labors::default();
        labors.open(life(), SessionId(1), 2);
        labors.take(0, life(), TaskId(0));
        labors.release(took, life(), TaskId(0));
        labors
    }

    /// Gives it as many tasks as it takes, which are named from `first` on; how many.
    fn filled(labors: &mut Labors, now: Millis, first: u128) -> u128 {
        let mut given = 0;
        while labors.least_loaded().is_some() {
            labors.take(now, life(), TaskId(first + given));
            given += 1;
        }
        given
    }

    #[test]
    fn tasks_wait_on_a_labor_while_its_tasks_are_short() {
        assert_eq!(filled(&mut labor(SHORT), 20, 1), 2 + 2 * AHEAD as u128);
        assert_eq!(filled(&mut labor(SHORT + 1), 30, 1), 2);
        let mut labors = labor(60_000);
        for n in 1..15 {
            assert!(labors.least_loaded().is_some());
            labors.take(60_000, life(), TaskId(n));
            labors.release(60_001, life(), TaskId(n));
        }
        assert_eq!(filled(&mut labors, 60_001, 20), 2 + 2 * AHEAD as u128, "a long one is soon forgotten");
        let mut unknown = Labors::default();
        unknown.open(life(), SessionId(1), 2);
        assert_eq!(filled(&mut unknown, 0, 1), 2);
    }

    #[test]
    fn tasks_that_wait_where_nothing_ends_are_late() {
        let mut labors = labor(1);
        assert_eq!((filled(&mut labors, 10, 1), labors.next_late()), (6, Some(10 + LATE)));
        labors.release(100, life(), TaskId(2));
        assert_eq!((labors.late(10 + LATE), labors.next_late()), (None, Some(100 + LATE)));
        assert_eq!(labors.late(100 + LATE), Some(life()));
        assert_eq!(labors.late(100 + LATE), None);
        for waits in [4, 5, 6] {
            assert!(labors.least_loaded().is_none(), "it gets none to wait any more");
            labors.release(301, life(), TaskId(waits));
        }
        assert_eq!((labors.tasks_of(life()).len(), labors.next_late()), (2, None));
        labors.release(400, life(), TaskId(3));
        assert_eq!(filled(&mut labors, 400, 7), 1);
    }

    #[test]
    fn what_waits_is_no_neighbour() {
        let mut labors = Labors::default();
        labors.open(life(), SessionId(1), 1);
        labors.take(0, life(), TaskId(0));
        labors.release(1, life(), TaskId(0));
        labors.take(1, life(), TaskId(1));
        labors.take(1, life(), TaskId(2));
        assert!(labors.is_alone(life(), TaskId(1)) && !labors.is_alone(life(), TaskId(2)));
        labors.release(2, life(), TaskId(1));
        assert!(labors.is_alone(life(), TaskId(2)));
    }
}
