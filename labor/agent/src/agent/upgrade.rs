//! Another release on a labor that runs one. The new one starts beside the old one, takes what comes
//! from then on, and the old one finishes what it has and goes. A release that wants what the old one
//! leaves (`handover` in its manifest) starts when that has gone; calls wait meanwhile. One that does
//! not get up changes nothing: what ran before runs on, or runs again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overseer_plugin::handover::{INHERITED_FROM, LEFT_IN};
use overseer_protocol::proto::{self, report::Kind};
use overseer_protocol::{Cause, ReleaseId};
use tokio::time::Instant;

use super::lives::Life;
use super::{Agent, work};
use crate::calls::{Event, HostNumber};
use crate::load::Loaded;

/// What the host of one release leaves to that of another.
pub(super) struct HandOver {
    to: Arc<Loaded>,
    from: Arc<Loaded>,
    /// The host that leaves it.
    number: HostNumber,
}

/// The file in which a host leaves something.
fn left_in(work: &Path, number: HostNumber) -> PathBuf {
    work.join(format!(".left-by-{number}"))
}

impl Agent {
    /// An order to load has been loaded.
    pub(super) fn start_release(&mut self, loaded: Arc<Loaded>) {
        let hosting = &mut self.hosting;
        if let Some(hand_over) = &mut hosting.hand_over
            && hosting.lives.get(hand_over.number).is_some()
        {
            // The one before it is still finishing: whoever is wanted by then gets what it leaves.
            hand_over.to = loaded;
            return;
        }
        match hosting.lives.present().filter(|life| life.loaded.id != loaded.id) {
            Some(life) if loaded.manifest.handover => {
                let (from, number) = (life.loaded.clone(), life.number());
                self.standing.runs(&from.id.to_string(), false, 0);
                let hosting = &mut self.hosting;
                hosting.hand_over = Some(HandOver { to: loaded, from, number });
                hosting.health_at = None;
                let stop_by = hosting.stop_by();
                hosting.lives.retire(stop_by);
                self.calls_event(Event::HostStarting);
            }
            _ => self.start_host(loaded, true),
        }
    }

    /// The host of an order to load did not get up.
    pub(super) fn not_started(&mut self, loaded: &Loaded, cause: Cause) {
        self.load_failed(loaded.id, cause);
        let from = self.hosting.hand_over.as_ref().map(|hand_over| hand_over.from.clone());
        if let (Some(from), Some(wanted)) = (from, &mut self.hosting.wanted) {
            // It has gone for this one, and comes again with what it has left.
            wanted.id = from.id;
            self.hosting.loaded = Some(from.clone());
            self.start_host(from, false);
        }
    }

    /// A host is up.
    pub(super) fn started_well(&mut self) {
        if let Some(hand_over) = self.hosting.hand_over.take() {
            self.remove_left(hand_over.number);
        }
        self.stop_overdue(Instant::now());
    }

    fn remove_left(&self, number: HostNumber) {
        // Most leave nothing.
        let _ = std::fs::remove_file(left_in(&self.directory.work(), number));
    }

    /// Where a host leaves something, and where it finds what was left to it.
    pub(super) fn hand_over_environment(&self, work: &Path, number: HostNumber) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        let mut set = |name: &str, path: PathBuf| {
            if let Some(path) = path.to_str() {
                environment.insert(name.to_owned(), path.to_owned());
            }
        };
        set(LEFT_IN, left_in(work, number));
        if let Some(hand_over) = &self.hosting.hand_over {
            set(INHERITED_FROM, left_in(work, hand_over.number));
        }
        environment
    }

    /// Those that take too long to finish, and those that are too many.
    pub(super) fn stop_overdue(&mut self, now: Instant) {
        while let Some(host) = self.hosting.lives.overdue(now) {
            tracing::warn!("a plugin host of an older release is stopped before it has finished");
            self.work.spawn(work::stop(host));
        }
    }

    /// A host of an older release has ended.
    pub(super) fn retired_is_gone(&mut self, life: &Life, cause: &Cause) {
        self.host_event("retired", life.number(), life.loaded.id, Some(cause));
        match &self.hosting.hand_over {
            Some(hand_over) if hand_over.number == life.number() => {
                let to = hand_over.to.clone();
                self.start_host(to, true);
            }
            _ => self.remove_left(life.number()),
        }
        self.remove_old_releases(life.loaded.id);
    }

    /// Removes what neither runs nor is wanted, but for the newest of it, which may be wanted again.
    fn remove_old_releases(&mut self, newest: ReleaseId) {
        let hosting = &self.hosting;
        let kept = hosting.lives.all().map(|life| life.loaded.id).chain([newest]);
        let kept = kept.chain(hosting.loaded.as_ref().map(|l| l.id)).chain(hosting.wanted.map(|w| w.id));
        let kept = kept.chain(hosting.hand_over.as_ref().map(|hand_over| hand_over.from.id)).collect();
        let old = self.directory.set_aside_others(&kept);
        if !old.is_empty() {
            self.work.spawn(work::remove(old));
        }
    }

    /// Nothing is to run here: what does finishes what it has.
    pub(super) fn on_unload(&mut self) {
        let stop_by = self.hosting.stop_by();
        self.hosting.forget();
        self.hosting.lives.retire(stop_by);
        self.standing.runs("", false, 0);
        self.calls_event(Event::NoHost);
        self.report(Kind::Loaded(proto::Loaded::default()));
        self.report(Kind::Ready(proto::Ready::default()));
    }
}
