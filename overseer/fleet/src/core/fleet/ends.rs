//! How labors end: drained, stopped, ended through their adapter; and what follows.

use overseer_protocol::{Cause, LaborId, LaborState};

use super::{FleetCore, Labor, Phase};
use crate::core::{Effect, Escalation, Happening, Life, Millis, WhatNext};

impl FleetCore {
    pub(super) fn lost(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        self.leave_calls(life, out);
        self.enter(now, life, Phase::Lost { cause: cause.clone() }, Some(cause.clone()), out);
        out.push(Effect::Tell(Happening::Disconnected(life, cause)));
    }

    /// Calls fail now, and the session, if there is one, is closed.
    pub(super) fn leave_calls(&mut self, life: Life, out: &mut Vec<Effect>) {
        let Some(labor) = self.labors.get(&life.labor) else { return };
        if let Some(session) = labor.session() {
            out.push(Effect::CloseForCalls(life));
            out.push(Effect::CloseSession(life, Some(session)));
        }
    }

    pub(super) fn drain(
        &mut self,
        now: Millis,
        id: LaborId,
        cause: Cause,
        for_good: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(labor) = self.labors.get_mut(&id) else { return };
        labor.unwanted |= for_good;
        let life = labor.life();
        match labor.phase {
            Phase::Ready { session } => {
                out.push(Effect::CloseForCalls(life));
                self.enter(now, life, Phase::Draining { session, cause: cause.clone() }, Some(cause), out);
                out.push(Effect::SendDrain(life, session));
            }
            Phase::Draining { .. } => {}
            // Nothing runs on it: it ends without waiting.
            _ if for_good => self.terminate(now, id, cause, out),
            _ => {}
        }
    }

    pub(super) fn terminate(&mut self, now: Millis, id: LaborId, cause: Cause, out: &mut Vec<Effect>) {
        let Some(labor) = self.labors.get_mut(&id) else { return };
        labor.unwanted = true;
        let life = labor.life();
        match &labor.phase {
            Phase::Backoff => self.forget(now, life, cause, out),
            Phase::Stopping { .. } | Phase::Terminating { .. } => {}
            Phase::Loading { .. } | Phase::Loaded { .. } | Phase::Ready { .. } | Phase::Draining { .. } => {
                self.stop(now, life, cause, out);
            }
            _ => self.end_node(now, life, cause, out),
        }
    }

    /// Asks the agent to leave by itself; the adapter ends the node if it does not in time.
    pub(super) fn stop(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        let Some(session) = self.labors.get(&life.labor).and_then(Labor::session) else { return };
        out.push(Effect::CloseForCalls(life));
        out.push(Effect::SendShutdown(life, session, cause.clone()));
        self.enter(now, life, Phase::Stopping { cause: cause.clone() }, Some(cause), out);
    }

    /// It runs and is of no use.
    pub(super) fn give_up(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        if !self.is_invited(life.labor) {
            self.leave_calls(life, out);
        }
        self.end_node(now, life, cause, out);
    }

    /// Ends the node through its adapter, whatever it does; a machine that was invited has none.
    pub(super) fn end_node(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        if self.is_invited(life.labor) {
            return self.end_invited(now, life, cause, out);
        }
        out.push(Effect::CloseSession(life, None));
        self.enter(now, life, Phase::Terminating { cause: cause.clone(), tries: 1 }, Some(cause), out);
        out.push(Effect::Terminate(life));
    }

    /// The node is gone for sure: another life or none.
    pub(super) fn gone(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        let Some(labor) = self.labors.get(&life.labor) else { return };
        out.push(Effect::CloseSession(life, None));
        let again = !labor.unwanted && !self.stopping && self.options.restart.applies(&cause);
        if !again {
            return self.forget(now, life, cause, out);
        }
        if !self.restarts.allow(now, self.options.intensity, self.options.period) {
            out.push(Effect::Tell(Happening::Escalated(life, cause.clone())));
            let rule = format!(
                "more than {} restarts within {} s, the last one after this: {cause}",
                self.options.intensity,
                self.options.period.as_secs()
            );
            self.forget(now, life, Cause::Policy { rule: rule.clone() }, out);
            if self.options.escalation == Escalation::StopFleet {
                out.push(Effect::Stops(Cause::Policy { rule: rule.clone() }));
                self.stop_all(now, Cause::Policy { rule }, out);
            }
            return;
        }
        let random = self.random.bits();
        let delay = match self.labors.get_mut(&life.labor) {
            Some(labor) => {
                let delay = self.options.backoff.delay(labor.failures, random);
                labor.failures = labor.failures.saturating_add(1);
                delay
            }
            None => return,
        };
        out.push(Effect::Tell(Happening::Terminated(
            life,
            cause.clone(),
            WhatNext::Restart { after: delay },
        )));
        self.enter(now, life, Phase::Backoff, Some(cause), out);
        if let Some(labor) = self.labors.get_mut(&life.labor) {
            labor.deadline = Some(now + delay);
        }
        if delay == 0 {
            self.next_life(now, life.labor, out);
        }
    }

    /// Ends every labor; none is replaced from now on.
    pub fn stop_all(&mut self, now: Millis, cause: Cause, out: &mut Vec<Effect>) {
        self.stopping = true;
        // Nothing of it is left to be changed; whoever waits hears of the fleet's end.
        self.rollout = None;
        let ids: Vec<LaborId> = self.labors.keys().copied().collect();
        for id in ids {
            self.terminate(now, id, cause.clone(), out);
        }
    }

    pub(super) fn forget(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        self.labors.remove(&life.labor);
        out.push(Effect::Tell(Happening::Terminated(life, cause.clone(), WhatNext::Gone)));
        out.push(Effect::State(life, LaborState::Terminated, Some(cause)));
        out.push(Effect::Forget(life.labor));
        self.roll(now, out);
    }
}
