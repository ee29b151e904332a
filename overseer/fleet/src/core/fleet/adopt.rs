//! Labors of the server before this one.

use std::time::Duration;

use overseer_protocol::Cause;

use super::{FleetCore, Labor, Phase};
use crate::core::{Effect, Found, Life, Millis};

/// How long an agent may take to find a server that was started again: its longest wait between
/// two tries, and some more.
const REATTACH: Duration = Duration::from_secs(15);

impl FleetCore {
    /// Takes over a labor of the server before this one, also over `max_nodes`.
    pub(super) fn adopt(
        &mut self,
        now: Millis,
        life: Life,
        found: Found,
        unwanted: bool,
        invited: Option<Duration>,
        out: &mut Vec<Effect>,
    ) {
        if self.labors.contains_key(&life.labor) {
            return;
        }
        // When its node last had word from an Overseer is not known: at the latest just now.
        let lease_end = now + self.options.lease.as_millis() as u64;
        // One that has joined while its record was not yet written dials again by itself.
        let invited = invited.map(|left| left.max(REATTACH));
        let unwanted = unwanted || invited.is_some();
        let labor = Labor { lease_end, unwanted, invited, ..self.new_labor(now, life, Phase::Booting) };
        self.labors.insert(life.labor, labor);
        match found {
            Found::Booting => self.enter(now, life, Phase::Booting, None, out),
            Found::Running => {
                let cause = Cause::OwnerLost;
                self.enter(now, life, Phase::Lost { cause: cause.clone() }, Some(cause), out);
                let away = self.options.grace.max(self.options.lease.min(REATTACH));
                if let Some(labor) = self.labors.get_mut(&life.labor) {
                    labor.deadline = Some(now + away.as_millis() as u64);
                }
            }
            // Whether its agent still lives nobody knows.
            Found::Ending(cause) if invited.is_some() => self.await_invited(now, life, cause, out),
            Found::Ending(cause) => self.end_node(now, life, cause, out),
            Found::Waiting if unwanted => self.forget(now, life, Cause::Asked, out),
            Found::Waiting => {
                self.enter(now, life, Phase::Backoff, None, out);
                self.next_life(now, life.labor, out);
            }
        }
    }
}
