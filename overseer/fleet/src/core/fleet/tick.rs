//! What the clock brings.

use overseer_protocol::{Cause, LaborId};

use super::{FleetCore, Phase};
use crate::core::{Effect, Millis};

impl FleetCore {
    pub(super) fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let silence = self.options.silence.as_millis() as u64;
        let due: Vec<LaborId> = self
            .labors
            .values()
            .filter(|l| {
                l.deadline.is_some_and(|d| d <= now) || (l.session().is_some() && l.heard + silence <= now)
            })
            .map(|l| l.id)
            .collect();
        for id in due {
            let Some(labor) = self.labors.get(&id) else { continue };
            let (life, phase) = (labor.life(), labor.phase.clone());
            let late = labor.deadline.is_some_and(|d| d <= now);
            let (heard, lease_end) = (labor.heard, labor.lease_end);
            let step = labor.boot_step(&self.options.deadlines);
            match phase {
                Phase::Backoff => self.next_life(now, id, out),
                Phase::Lost { cause } => self.end_node(now, life, cause, out),
                Phase::Stopping { cause } => self.end_node(now, life, cause, out),
                Phase::Draining { cause, .. } if late => self.stop(now, life, cause, out),
                Phase::Draining { cause, .. } => {
                    out.push(Effect::CloseForCalls(life));
                    self.end_node(now, life, cause, out);
                }
                // An agent without word from us has ended itself by now.
                Phase::Terminating { cause, .. } if lease_end <= now => self.gone(now, life, cause, out),
                Phase::Terminating { cause, .. } if labor.is_invited() => {
                    self.await_invited(now, life, cause, out);
                }
                Phase::Terminating { cause, tries } => {
                    let phase = Phase::Terminating { cause, tries: tries.saturating_add(1) };
                    self.enter(now, life, phase, None, out);
                    out.push(Effect::Terminate(life));
                }
                // An invitation is good until it was said to be.
                Phase::Requested | Phase::Booting | Phase::Joining
                    if self.paused && !(labor.is_invited() && phase == Phase::Booting) =>
                {
                    let again = step.map(|(_, limit)| now + limit.as_millis() as u64);
                    if let Some(labor) = self.labors.get_mut(&id) {
                        labor.deadline = again;
                    }
                }
                _ => match step {
                    Some((phase, limit)) if late => {
                        let after_ms = limit.as_millis() as u64;
                        self.give_up(now, life, Cause::BootTimeout { phase, after_ms }, out);
                    }
                    _ => self.lost(now, life, Cause::HeartbeatLost { silent_ms: now - heard }, out),
                },
            }
        }
    }
}
