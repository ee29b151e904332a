//! From the queue to labors with room, and back from those that have none after all.

use std::collections::BTreeSet;

use overseer_protocol::{Attempt, SessionId, TaskId};

use super::{Phase, Task, TaskCore, TaskEffect};
use crate::core::{Life, Millis};
use crate::tasks::TaskState;

impl TaskCore {
    /// Asks a labor for the tasks that it has not begun: others may have room for them. It knows which
    /// those are.
    pub(super) fn ask_back(&self, life: Life, out: &mut Vec<TaskEffect>) {
        for task in self.labors.tasks_of(life) {
            if let Some(Task { record, phase: Phase::Running { session: Some(_), .. }, .. }) =
                self.tasks.get(&task)
            {
                out.push(TaskEffect::AskBack { task, attempt: Attempt(record.attempts), life });
            }
        }
    }

    /// Gives what waits to labors that are free, the oldest first.
    pub(super) fn dispatch(&mut self, now: Millis, out: &mut Vec<TaskEffect>) {
        let due = |queue: &BTreeSet<(Millis, TaskId)>| {
            queue.range(..=(now, TaskId(u128::MAX))).map(|(_, id)| *id).next()
        };
        loop {
            let Some(id) = due(&self.alone) else {
                self.labors.stop_emptying();
                break;
            };
            let Some((life, session)) = self.labors.idle() else { break };
            self.begin(now, id, life, session, out);
        }
        while let Some(id) = due(&self.queue) {
            let Some((life, session)) = self.labors.least_loaded() else { return };
            self.begin(now, id, life, session, out);
        }
    }

    fn begin(&mut self, now: Millis, id: TaskId, life: Life, session: SessionId, out: &mut Vec<TaskEffect>) {
        self.dequeue(id);
        self.set_timer(id, None);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.record.attempts += 1;
        task.record.state = TaskState::Running {
            attempt: Attempt(task.record.attempts),
            labor: life.labor,
            generation: life.generation,
            since_ms: now,
        };
        let alone = task.record.suspicion.alone;
        task.phase = Phase::Starting { life, session };
        self.labors.take(now, life, id);
        if alone {
            self.labors.keep_alone(life);
        }
        self.write(id, out);
    }

    pub(super) fn enqueue(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let TaskState::Queued { not_before_ms } = task.record.state else { return };
        let until = task.record.queue_until_ms.filter(|_| !task.record.has_begun());
        match task.record.suspicion.alone {
            true => self.alone.insert((not_before_ms, id)),
            false => self.queue.insert((not_before_ms, id)),
        };
        self.set_timer(id, until);
    }

    pub(super) fn dequeue(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        if let TaskState::Queued { not_before_ms } = task.record.state {
            self.queue.remove(&(not_before_ms, id));
            self.alone.remove(&(not_before_ms, id));
        }
    }
}
