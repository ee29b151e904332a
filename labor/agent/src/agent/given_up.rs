//! A plugin host that is not started again: the labor is of no use then, and the Overseer ends it.

use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{Cause, ReleaseId};

use super::ending::FLUSH;
use super::{Agent, work};

/// The end of the last host.
pub(super) struct GivenUp {
    release: ReleaseId,
    /// What the labor ends for.
    cause: Cause,
    /// Its last words are stored, or were waited for long enough.
    flushed: bool,
}

impl Agent {
    /// No host follows. Who hears of that ends this node, so the last log bytes go first.
    pub(super) fn give_up(&mut self, release: ReleaseId, cause: Cause) {
        self.hosting.given_up = Some(GivenUp { release, cause, flushed: false });
        self.work.spawn(work::last_words(self.logs.clone(), FLUSH));
    }

    pub(super) fn on_last_words(&mut self) {
        if let Some(given_up) = &mut self.hosting.given_up {
            given_up.flushed = true;
        }
        self.say_given_up();
    }

    /// Says so, in any session until one hears it: what is said into a lost one is lost too.
    pub(super) fn say_given_up(&self) {
        let Some(given_up) = self.hosting.given_up.as_ref().filter(|g| g.flushed) else { return };
        if self.session.is_some() {
            let event = proto::HostEvent {
                what: "gave_up".to_owned(),
                cause: given_up.cause.to_bytes().into(),
                incarnation: self.hosting.incarnation,
                release: given_up.release.to_string(),
            };
            self.outbox.behind_results(Kind::HostEvent(event));
        }
    }

    /// Whether this release has ended for good here. It is not run again in this life, also when
    /// a new session orders it, as one does that finds it down.
    pub(super) fn gave_up(&self, release: ReleaseId) -> bool {
        self.hosting.given_up.as_ref().is_some_and(|g| g.release == release)
    }
}
