//! Draining, shutting down, signals.

use std::time::Duration;

use overseer_protocol::Cause;
use overseer_protocol::proto::{self, report::Kind};
use tokio::time::Instant;

use super::{Agent, work};
use crate::calls::Event;
use crate::exit::Exit;
use crate::tells::Told;

/// Time to finish what runs after SIGTERM.
const SIGNAL_DRAIN: Duration = Duration::from_secs(30);
/// Time for the last log bytes to be stored.
pub(super) const FLUSH: Duration = Duration::from_secs(5);
/// Time for the Overseer to take note of the Goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How far the end is.
#[derive(Debug)]
pub(super) enum Ending {
    No,
    Draining {
        until: Instant,
        /// After SIGTERM the agent ends when it is drained.
        leaves: bool,
        said: bool,
    },
    /// The host stops, then the logs are flushed.
    Stopping {
        cause: Cause,
        exit: Exit,
    },
    Leaving {
        until: Instant,
        exit: Exit,
    },
}

impl Ending {
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self, Self::Leaving { .. })
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self, Self::Stopping { .. } | Self::Leaving { .. })
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Stopping { exit, .. } | Self::Leaving { exit, .. } => *exit,
            _ => Exit::Asked,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Draining { until, said: false, .. } | Self::Leaving { until, .. } => Some(*until),
            _ => None,
        }
    }
}

impl Agent {
    pub(super) fn on_drain(&mut self, deadline: Duration) {
        match &mut self.ending {
            Ending::No => {}
            // Asked again over another session: it is said again, too.
            Ending::Draining { said, .. } => {
                *said = false;
                return;
            }
            Ending::Stopping { .. } | Ending::Leaving { .. } => return,
        }
        self.standing.drains();
        self.tells.tell(&Told::Draining);
        self.ending = Ending::Draining { until: Instant::now() + deadline, leaves: false, said: false };
        self.calls_event(Event::Draining);
    }

    /// The first signal drains, the second ends at once.
    pub(super) fn on_signal(&mut self, now: Instant) -> Option<Exit> {
        match &mut self.ending {
            Ending::Draining { leaves: true, .. } | Ending::Stopping { .. } | Ending::Leaving { .. } => {
                return Some(Exit::Interrupted);
            }
            Ending::Draining { leaves, said, until } => {
                (*leaves, *said) = (true, false);
                *until = (*until).max(now);
            }
            Ending::No => {
                self.standing.drains();
                self.tells.tell(&Told::Draining);
                self.ending = Ending::Draining { until: now + SIGNAL_DRAIN, leaves: true, said: false };
            }
        }
        if self.session.is_none() && self.calls.running() == 0 {
            // Nobody to say it to, nothing to finish.
            return Some(Exit::Asked);
        }
        let cause = Cause::Reclaimed { notice: "the agent was asked to end by a signal".into() };
        let in_ms = u64::try_from(SIGNAL_DRAIN.as_millis()).unwrap_or(0);
        self.report(Kind::Notice(proto::Notice { cause: cause.to_bytes().into(), in_ms }));
        self.calls_event(Event::Draining);
        None
    }

    pub(super) fn on_shutdown(&mut self, cause: Cause) {
        if !self.ending.is_stopping() {
            self.tells.ending(&cause);
        }
        self.stop_all(cause, Exit::Asked);
    }

    pub(super) fn ending_due(&mut self, now: Instant) -> Option<Exit> {
        match &mut self.ending {
            Ending::Draining { until, leaves, said } if !*said => {
                // A result that still travels is not done.
                let running = self.calls.running() + self.putting;
                if running > 0 && now < *until {
                    return None;
                }
                *said = true;
                let leaves = *leaves;
                let abandoned = u32::try_from(running).unwrap_or(u32::MAX);
                if self.session.is_some() {
                    self.outbox.behind_results(Kind::Drained(proto::Drained { abandoned }));
                }
                if leaves {
                    let exit = if running > 0 { Exit::Interrupted } else { Exit::Asked };
                    self.stop_all(Cause::Asked, exit);
                }
                None
            }
            Ending::Leaving { until, exit } if now >= *until => Some(*exit),
            _ => None,
        }
    }

    fn stop_all(&mut self, cause: Cause, exit: Exit) {
        if self.ending.is_stopping() {
            return;
        }
        self.ending = Ending::Stopping { cause, exit };
        // What has not begun does not begin any more, and its caller is told just that.
        self.calls_event(Event::Draining);
        if self.hosting.lives.is_empty() {
            return self.on_host_stopped();
        }
        for life in self.hosting.lives.all() {
            // Its end comes as its last output, behind its results and logs.
            self.work.spawn(work::stop(life.host.clone()));
        }
    }

    /// The host is gone, or there was none: now the logs.
    pub(super) fn on_host_stopped(&mut self) {
        self.work.spawn(work::flush(self.logs.clone(), FLUSH));
    }

    pub(super) fn on_flushed(&mut self) {
        let Ending::Stopping { cause, exit } = &self.ending else { return };
        let (cause, exit) = (cause.clone(), *exit);
        self.outbox.finish(Kind::Goodbye(proto::Goodbye { cause: cause.to_bytes().into() }));
        let patience = if self.session.is_some() { GOODBYE } else { Duration::ZERO };
        self.ending = Ending::Leaving { until: Instant::now() + patience, exit };
    }
}
