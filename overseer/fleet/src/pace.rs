//! How long a labor takes for each step on its way to ready.

use std::time::Instant;

use overseer_protocol::LaborState;

use crate::metrics::FleetMetrics;

/// Where a labor is on its way to ready, and since when.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    requested: Option<Instant>,
    /// The phase, by its place in `PHASES`.
    phase: Option<(usize, Instant)>,
}

impl Pace {
    /// It enters a state: the phase before it has ended, if it ended well.
    pub(crate) fn enter(&mut self, state: LaborState, metrics: &FleetMetrics) {
        let now = Instant::now();
        // What begins, and what comes to its end by it.
        let (begins, ends) = match state {
            LaborState::Requested => {
                self.requested = Some(now);
                (Some(0), None)
            }
            LaborState::Booting => (Some(1), Some(0)),
            LaborState::Joining => (Some(2), Some(1)),
            LaborState::Connected => (Some(3), Some(2)),
            // The release travels: a part of the phase that began with the session.
            LaborState::Loading => return,
            LaborState::Loaded => (Some(4), Some(3)),
            LaborState::Ready => (None, Some(4)),
            _ => (None, None),
        };
        if let Some((phase, since)) = self.phase.take()
            && Some(phase) == ends
        {
            metrics.phases[phase].observe(now - since);
        }
        self.phase = begins.map(|phase| (phase, now));
        if begins.is_none()
            && let Some(requested) = self.requested.take()
            && state == LaborState::Ready
        {
            metrics.start.observe(now - requested);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(metrics: &FleetMetrics) -> Vec<u64> {
        metrics.phases.iter().chain([&metrics.start]).map(|h| h.observed().count()).collect()
    }

    #[test]
    fn a_phase_counts_when_the_next_one_begins() {
        use LaborState::*;
        let (metrics, mut pace) = (FleetMetrics::default(), Pace::default());
        for state in [Requested, Booting, Joining, Connected, Loading, Loaded, Ready, Lost, Ready] {
            pace.enter(state, &metrics);
        }
        assert_eq!(counts(&metrics), [1, 1, 1, 1, 1, 1]);
        for state in [Requested, Booting, Terminating, Backoff, Requested, Booting] {
            pace.enter(state, &metrics);
        }
        assert_eq!(counts(&metrics), [3, 1, 1, 1, 1, 1]);
        // One that was taken over from another process was never requested here.
        let (metrics, mut pace) = (FleetMetrics::default(), Pace::default());
        pace.enter(Ready, &metrics);
        assert_eq!(counts(&metrics), [0; 6]);
    }
}
