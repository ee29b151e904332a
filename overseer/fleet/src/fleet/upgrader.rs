//! The part of the fleet's actor that changes releases.

use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::proto::{self, order};
use overseer_protocol::{ReleaseId, SessionId};
use tokio::sync::watch;

use super::actor::{FleetMessage, FleetState};
use super::handler::Told;
use super::said;
use super::upgrade::Upgrade;
use crate::callbacks::FleetEvent;
use crate::core::{Event, Life, Millis, NoUpgrade, UpgradeStage, UpgradeStatus};

/// How often is looked at what a new release answers.
const LOOK: Duration = Duration::from_millis(100);

impl FleetState {
    pub(super) fn upgrade(
        &mut self,
        now: Millis,
        upgrade: Upgrade,
    ) -> Result<watch::Receiver<UpgradeStatus>, NoUpgrade> {
        let Upgrade { release, options } = upgrade;
        let (from, to) = (self.core.release(), release.as_ref().map(|release| release.id()));
        let (begun, effects) = self.core.upgrade(now, to, options)?;
        said::upgrades(&self.shared.name, from, to);
        self.shared.releases.begin(release);
        self.shared.forget_answered(to, from);
        let (status, told) = watch::channel(begun);
        *self.shared.upgrade.lock() = Some(status);
        self.carry_out(effects);
        let (actor, shared) = (self.nodes.actor.clone(), Arc::clone(&self.shared));
        let mut seen = told.clone();
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(tokio::spawn(async move {
            let over = async { seen.wait_for(|status| status.stage.is_over()).await.map(|_| ()) };
            let looks = async {
                let mut every = tokio::time::interval(LOOK);
                loop {
                    every.tick().await;
                    // The fleet's end ends this, too.
                    if shared.left.is_cancelled() || actor.cast(FleetMessage::Answers).is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = over => {}
                () = looks => {}
            }
        }));
        Ok(told)
    }

    pub(super) fn look_at_answers(&mut self, now: Millis) {
        let Some(status) = self.core.upgrade_status() else { return };
        let (new, before) = (self.shared.answered(status.to), self.shared.answered(status.from).tally);
        let answers = Event::Answers { new: new.tally, before, error: new.error() };
        let effects = self.core.on_event(now, answers);
        self.carry_out(effects);
    }

    /// Says how far an upgrade is.
    pub(super) fn say_upgrade(&self) {
        let Some(now) = self.core.upgrade_status() else { return };
        if let Some(status) = &*self.shared.upgrade.lock() {
            status.send_if_modified(|status| {
                let changed = *status != now;
                *status = now;
                changed
            });
        }
    }

    /// One has begun, or has come to another stage.
    pub(super) fn upgrading(&self, status: UpgradeStatus) {
        self.shared.record_upgrade(status.clone());
        if let Some(handler) = self.shared.handler.get() {
            handler.tell(Told::Event(FleetEvent::Upgrading { status }));
        }
    }

    pub(super) fn upgraded(&self, status: &UpgradeStatus) {
        let (result, runs) = match &status.stage {
            UpgradeStage::Done => ("done", status.to),
            _ => ("rolled_back", status.from),
        };
        self.shared.releases.settle(runs);
        self.shared.metrics.upgrades.add(result);
        said::upgraded(&self.shared.name, status);
        self.shared.record_upgrade(status.clone());
        if let Some(told) = &*self.shared.upgrade.lock() {
            told.send_replace(status.clone());
        }
        if let Some(handler) = self.shared.handler.get() {
            handler.tell(Told::Event(FleetEvent::Upgraded { status: status.clone() }));
        }
    }

    pub(super) fn load(&self, life: Life, session: SessionId, release: Option<ReleaseId>) {
        let Some(open) = self.shared.session(session) else { return };
        if release.is_none() && open.answers.release().is_none() {
            // It is empty, and is to be: it is ready when it is connected.
            for event in [Event::Loaded(life, None), Event::Ready(life, None)] {
                let _ = self.nodes.actor.cast(FleetMessage::Event(event));
            }
            return;
        }
        let deadlines = &self.shared.options.deadlines;
        open.order(order::Kind::Load(proto::Load {
            release: release.map(|release| release.to_string()).unwrap_or_default(),
            host_restart: String::new(),
            unsigned: if self.shared.unsigned { "allow" } else { "require" }.into(),
            start_timeout_ms: deadlines.start.as_millis() as u64,
            drain_ms: deadlines.drain.as_millis() as u64,
        }));
    }
}
