//! Attempts of stored tasks: they outlive their session, and their answers are kept until the
//! Overseer has stored them.

use std::collections::BTreeMap;

use bytes::Bytes;
use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{Attempt, TaskId};

use super::Agent;
use super::calling::{Answered, Spent, Whose};
use crate::calls::{Event, Outcome};

/// The attempts that the agent has. Their number is bounded by what the Overseer gives to one
/// labor, and each answer by the largest payload.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<(TaskId, Attempt), Attempted>);

#[derive(Debug)]
struct Attempted {
    /// The number of its call while it waits or runs.
    call: u64,
    answer: Option<(Outcome<Bytes>, Spent)>,
}

impl Held {
    /// False when the attempt is here already.
    pub(super) fn begin(&mut self, task: TaskId, attempt: Attempt, call: u64) -> bool {
        let vacant = !self.0.contains_key(&(task, attempt));
        if vacant {
            self.0.insert((task, attempt), Attempted { call, answer: None });
        }
        vacant
    }

    /// Keeps its answer; false when nobody wants it any more.
    pub(super) fn finish(
        &mut self,
        task: TaskId,
        attempt: Attempt,
        answer: Outcome<Bytes>,
        spent: Spent,
    ) -> bool {
        match self.0.get_mut(&(task, attempt)) {
            Some(attempted) => {
                attempted.answer = Some((answer, spent));
                true
            }
            None => false,
        }
    }

    fn named(&self) -> proto::Held {
        let attempts = self.0.keys().map(|(task, attempt)| proto::AttemptRef {
            task: Bytes::copy_from_slice(&task.to_bytes()),
            attempt: attempt.0,
        });
        proto::Held { attempts: attempts.collect() }
    }

    fn answers(&self) -> Vec<(Answered, Outcome<Bytes>)> {
        let answered = self.0.iter().filter_map(|((task, attempt), attempted)| {
            let (answer, spent) = attempted.answer.clone()?;
            Some((Answered { whose: Whose::Attempt(*task, *attempt), spent }, answer))
        });
        answered.collect()
    }
}

impl Agent {
    /// A session has begun: the Overseer learns what is here, and every answer comes again.
    pub(super) fn say_held(&mut self) {
        self.report(Kind::Held(self.held.named()));
        for (whose, answer) in self.held.answers() {
            self.send_answer(whose, answer);
        }
    }

    pub(super) fn on_cancel_task(&mut self, attempt: &proto::AttemptRef) {
        if let Some(held) = named(attempt).and_then(|name| self.held.0.get(&name)) {
            let call = held.call;
            if held.answer.is_none() {
                self.on_cancel(call);
            }
        }
    }

    pub(super) fn on_ask_back(&mut self, attempt: &proto::AttemptRef) {
        if let Some(held) = named(attempt).and_then(|name| self.held.0.get(&name)) {
            let call = held.call;
            if held.answer.is_none() {
                self.calls_event(Event::AskedBack(call));
            }
        }
    }

    pub(super) fn on_forget_task(&mut self, attempt: &proto::AttemptRef) {
        let held = named(attempt).and_then(|name| self.held.0.remove(&name));
        if let Some(Attempted { call, answer: None }) = held {
            self.calls_event(Event::Cancelled(call));
        }
    }
}

fn named(attempt: &proto::AttemptRef) -> Option<(TaskId, Attempt)> {
    Some((TaskId::from_bytes(&attempt.task)?, Attempt(attempt.attempt)))
}
