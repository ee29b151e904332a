//! Machines of somebody else's. No adapter has made them and none can end them: the agent is told
//! to leave, and what it does not hear, its lease says. They are never replaced.

use std::time::Duration;

use overseer_protocol::{Cause, Generation, LaborId, SessionId};

use super::{FleetCore, Labor, Phase};
use crate::core::{Effect, Life, Millis};

/// An agent that comes back so often after it was asked to leave, each time with the time that it
/// has for that, is refused from then on, which ends it too.
const ASKED: u32 = 5;

impl FleetCore {
    /// Whether a labor is on a machine that was invited.
    pub fn is_invited(&self, labor: LaborId) -> bool {
        self.labors.get(&labor).is_some_and(Labor::is_invited)
    }

    pub(super) fn invite(&mut self, now: Millis, id: LaborId, ttl: Duration, out: &mut Vec<Effect>) {
        if self.labors.contains_key(&id) || self.stopping || self.admit(1).is_err() {
            return;
        }
        let life = Life { labor: id, generation: Generation::FIRST };
        let labor = Labor { unwanted: true, invited: Some(ttl), ..self.new_labor(now, life, Phase::Booting) };
        self.labors.insert(id, labor);
        self.enter(now, life, Phase::Booting, None, out);
    }

    /// One that has a session is asked to leave; one that had one is waited for; one that never
    /// attached has nothing to end, and finds when it does that its life is over.
    pub(super) fn end_invited(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        match self.labors.get(&life.labor).map(|labor| &labor.phase) {
            Some(Phase::Requested | Phase::Booting | Phase::Joining) => self.gone(now, life, cause, out),
            Some(Phase::Loading { .. } | Phase::Loaded { .. } | Phase::Ready { .. }) => {
                self.stop(now, life, cause, out);
            }
            _ => self.await_invited(now, life, cause, out),
        }
    }

    /// Until the lease ends, or it dials again and can be asked to leave.
    pub(super) fn await_invited(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        out.push(Effect::CloseSession(life, None));
        self.enter(now, life, Phase::Terminating { cause: cause.clone(), tries: 1 }, Some(cause), out);
        if let Some(labor) = self.labors.get_mut(&life.labor) {
            labor.deadline = Some(labor.lease_end.max(now));
        }
    }

    /// It should have left, and is back.
    pub(super) fn came_back(
        &mut self,
        now: Millis,
        life: Life,
        session: SessionId,
        cause: Cause,
        out: &mut Vec<Effect>,
    ) {
        let Some(labor) = self.labors.get_mut(&life.labor) else { return };
        labor.asked += 1;
        if labor.asked > ASKED {
            return self.gone(now, life, cause, out);
        }
        out.push(Effect::SendShutdown(life, session, cause.clone()));
        self.enter(now, life, Phase::Stopping { cause: cause.clone() }, Some(cause), out);
    }

    /// It has acknowledged its end, or ends by itself.
    pub(super) fn left(&mut self, now: Millis, life: Life, cause: Cause, out: &mut Vec<Effect>) {
        let Some(labor) = self.labors.get(&life.labor) else { return };
        let cause = match &labor.phase {
            Phase::Draining { cause, .. } | Phase::Stopping { cause } | Phase::Terminating { cause, .. } => {
                cause.clone()
            }
            _ => cause,
        };
        self.leave_calls(life, out);
        self.gone(now, life, cause, out);
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::LaborState;

    use super::*;
    use crate::core::{Event, Found, Happening, Options, WhatNext};

    const TTL: Duration = Duration::from_secs(900);
    const SESSION: SessionId = SessionId(1);

    fn life() -> Life {
        Life { labor: LaborId::new(1, 7), generation: Generation::FIRST }
    }

    fn attached(session: u64) -> Event {
        Event::Attached {
            life: life(),
            session: SessionId(session),
            release: None,
            ready: false,
            draining: false,
        }
    }

    fn invited() -> FleetCore {
        let mut core = FleetCore::new(Options { max_nodes: 1, ..Options::default() }, 1);
        let effects = core.on_event(0, Event::Invite { id: life().labor, ttl: TTL });
        assert_eq!(effects, [Effect::State(life(), LaborState::Booting, None)], "no adapter is asked");
        assert!(core.is_invited(life().labor) && !core.is_wanted(life().labor));
        core
    }

    fn ready() -> FleetCore {
        let mut core = invited();
        for event in
            [Event::Joined(life()), attached(1), Event::Loaded(life(), None), Event::Ready(life(), None)]
        {
            core.on_event(0, event);
        }
        core
    }

    fn is_over(effects: &[Effect]) -> bool {
        let gone = |e: &Effect| matches!(e, Effect::Tell(Happening::Terminated(_, _, WhatNext::Gone)));
        effects.iter().any(gone) && effects.contains(&Effect::Forget(life().labor))
    }

    fn state(core: &FleetCore) -> LaborState {
        core.labors().next().unwrap().1
    }

    #[test]
    fn an_invitation_takes_a_slot_until_its_time_is_over() {
        let mut core = invited();
        assert!(core.admit(1).is_err());
        assert_eq!(core.next_deadline(), Some(900_000));
        assert!(core.on_event(899_999, Event::Tick).is_empty());
        assert!(is_over(&core.on_event(900_000, Event::Tick)));
        assert!(core.is_empty() && core.admit(1).is_ok());
        assert!(core.on_event(900_001, attached(1)).is_empty(), "it is too late");
    }

    #[test]
    fn one_that_nobody_has_taken_ends_at_once() {
        for event in [Event::Drain(life().labor), Event::Terminate(life().labor, Cause::Asked)] {
            assert!(is_over(&invited().on_event(5, event)));
        }
    }

    #[test]
    fn its_end_is_said_over_its_session_and_acknowledged() {
        let mut core = ready();
        let effects = core.on_event(10, Event::Drain(life().labor));
        assert!(effects.contains(&Effect::SendDrain(life(), SESSION)));
        let effects = core.on_event(20, Event::Drained(life()));
        assert!(effects.contains(&Effect::SendShutdown(life(), SESSION, Cause::Asked)));
        assert!(is_over(&core.on_event(30, Event::Left(life(), Cause::Asked))));
    }

    #[test]
    fn what_cannot_be_told_holds_its_slot_until_its_lease_has_run_out() {
        let mut core = ready();
        core.on_event(1_000, Event::Heard(life()));
        core.on_event(2_000, Event::Detached(life(), SESSION));
        let grace = core.on_event(7_000, Event::Tick);
        assert!(!is_over(&grace) && !grace.contains(&Effect::Terminate(life())), "{grace:?}");
        assert_eq!(state(&core), LaborState::Terminating);
        assert_eq!(core.next_deadline(), Some(31_000), "the lease counts from the last word");
        assert!(!is_over(&core.on_event(30_999, Event::Tick)));
        assert!(is_over(&core.on_event(31_000, Event::Tick)));
    }

    #[test]
    fn one_that_comes_back_within_grace_goes_on_and_later_is_told_to_leave() {
        let mut core = ready();
        core.on_event(2_000, Event::Detached(life(), SESSION));
        let back = Event::Attached {
            life: life(),
            session: SessionId(2),
            release: None,
            ready: true,
            draining: false,
        };
        core.on_event(6_900, back.clone());
        assert_eq!(state(&core), LaborState::Ready);

        let mut core = ready();
        core.on_event(2_000, Event::Detached(life(), SESSION));
        core.on_event(7_000, Event::Tick);
        let effects = core.on_event(8_000, back);
        let shutdown = Effect::SendShutdown(life(), SessionId(2), Cause::ConnectionLost);
        assert!(effects.contains(&shutdown), "{effects:?}");
        assert!(is_over(&core.on_event(8_100, Event::Left(life(), Cause::Asked))));
    }

    #[test]
    fn one_that_comes_back_again_and_again_is_refused_in_the_end() {
        let mut core = ready();
        core.on_event(0, Event::Terminate(life().labor, Cause::Asked));
        let mut now = 0;
        for round in 2.. {
            now += 5_000;
            core.on_event(now, Event::Tick);
            let effects = core.on_event(now, attached(round));
            if is_over(&effects) {
                assert_eq!(round, 2 + u64::from(ASKED));
                return;
            }
            assert!(round < 20, "it is never over");
        }
    }

    #[test]
    fn a_release_that_does_not_start_is_no_reason_to_cut_the_line() {
        let mut core = invited();
        core.on_event(0, Event::Joined(life()));
        core.on_event(0, attached(1));
        let cause = Cause::Unhealthy { reason: "no room".into() };
        let effects = core.on_event(5, Event::Failed(life(), cause.clone()));
        assert!(effects.contains(&Effect::SendShutdown(life(), SESSION, cause)), "{effects:?}");
        assert!(!effects.iter().any(|e| matches!(e, Effect::CloseSession(..))), "{effects:?}");
    }

    #[test]
    fn the_next_server_goes_on_with_it_and_ends_what_was_to_end() {
        let adopted = |found, left: u64| {
            let mut core = FleetCore::new(Options::default(), 1);
            let invited = Some(Duration::from_secs(left));
            core.on_event(0, Event::Adopted { life: life(), found, unwanted: true, invited });
            core
        };
        let mut core = adopted(Found::Booting, 100);
        assert_eq!(core.next_deadline(), Some(100_000));
        assert!(is_over(&core.on_event(100_000, Event::Tick)));
        let mut core = adopted(Found::Running, 0);
        assert_eq!(state(&core), LaborState::Lost);
        core.on_event(
            1,
            Event::Attached { life: life(), session: SESSION, release: None, ready: true, draining: false },
        );
        assert_eq!(state(&core), LaborState::Ready);
        let mut core = adopted(Found::Ending(Cause::Asked), 0);
        assert_eq!((state(&core), core.next_deadline()), (LaborState::Terminating, Some(30_000)));
        let effects = core.on_event(1, attached(1));
        assert!(effects.contains(&Effect::SendShutdown(life(), SESSION, Cause::Asked)));
    }
}
