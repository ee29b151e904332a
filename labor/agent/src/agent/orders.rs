//! What the Overseer orders.

use overseer_protocol::proto::{self, order, report::Kind};
use overseer_protocol::{BootPhase, Cause, ReleaseId};
use overseer_release::{PublicKey, Trust, Unsigned};
use std::time::Duration;
use tokio::time::Instant;

use super::hosting::LoadOrder;
use super::{Agent, Work};

impl Agent {
    pub(super) fn on_order(&mut self, order: proto::Order) {
        match order.kind {
            Some(order::Kind::Call(call)) => self.on_call(call),
            Some(order::Kind::Cancel(cancel)) => self.on_cancel(cancel.id),
            Some(order::Kind::Lease(lease)) => self.on_lease(&lease),
            Some(order::Kind::TelemetryAck(ack)) => self.outbox.telemetry(|t| t.acknowledged(ack.through)),
            Some(order::Kind::Load(load)) => self.on_load(load),
            Some(order::Kind::Drain(drain)) => self.on_drain(Duration::from_millis(drain.deadline_ms)),
            Some(order::Kind::Shutdown(shutdown)) => self.on_shutdown(Cause::from_bytes(&shutdown.cause)),
            Some(order::Kind::Renewal(_)) => self.renew_at = Some(Instant::now()),
            Some(order::Kind::CancelTask(attempt)) => self.on_cancel_task(&attempt),
            Some(order::Kind::ForgetTask(attempt)) => self.on_forget_task(&attempt),
            Some(order::Kind::AskBack(attempt)) => self.on_ask_back(&attempt),
            Some(order::Kind::Welcome(_)) => tracing::warn!("a second welcome in one session"),
            // Of a newer version that was not agreed on.
            None => tracing::warn!("an order that this agent does not know"),
        }
    }

    fn on_lease(&mut self, lease: &proto::Lease) {
        if lease.lease_ms > 0 {
            self.lease = Duration::from_millis(lease.lease_ms);
        }
        self.lease_until = Instant::now() + self.lease;
    }

    fn on_load(&mut self, load: proto::Load) {
        if load.release.is_empty() {
            return self.on_unload();
        }
        let failed = |agent: &Self, reason: String| {
            let cause = Cause::BootFailed { phase: BootPhase::Load, reason };
            agent.report(Kind::LoadFailed(proto::LoadFailed {
                release: load.release.clone(),
                cause: cause.to_bytes().into(),
            }));
        };
        let id: ReleaseId = match load.release.parse() {
            Ok(id) => id,
            Err(error) => return failed(self, format!("{error}")),
        };
        let trust = match self.trust(&load.unsigned) {
            Ok(trust) => trust,
            Err(reason) => return failed(self, reason),
        };
        let restart = match load.host_restart.as_str() {
            "" | "restart" => true,
            "never" => false,
            other => {
                return failed(self, format!("host_restart {other:?} is not known; use restart or never"));
            }
        };
        let start_timeout = match load.start_timeout_ms {
            0 => super::hosting::START_TIMEOUT,
            ms => Duration::from_millis(ms),
        };
        let drain = match load.drain_ms {
            0 => super::hosting::DRAIN,
            ms => Duration::from_millis(ms),
        };
        let order = LoadOrder { restart, start_timeout, drain };
        if self.hosting.runs_already(id) {
            self.hosting.stay(id, order);
            self.say_loaded(id);
            self.say_ready();
            return;
        }
        if self.gave_up(id) {
            self.say_given_up();
            return;
        }
        self.hosting.given_up = None;
        if self.hosting.order(id, order) {
            let loading = self.loader.clone().load(id, trust);
            let loading = self.work.spawn(async move { Work::Loaded(id, loading.await) });
            self.hosting.loads(loading);
        } else if !self.hosting.is_loading() {
            // Its host is being started.
            self.say_loaded(id);
        }
    }

    /// Whom a release must be signed by. The keys come with the bootstrap document only: who can
    /// order a load must not be able to say whom to trust.
    fn trust(&self, unsigned: &str) -> Result<Trust, String> {
        let mut keys = Vec::with_capacity(self.release_keys.len());
        for text in &self.release_keys {
            let key: PublicKey = text.parse().map_err(|e| format!("release key {text:?}: {e}"))?;
            keys.push(key);
        }
        let mut trust = Trust::keys(keys);
        trust.unsigned = match unsigned {
            "" | "require" => Unsigned::Require,
            "allow" => Unsigned::Allow,
            other => return Err(format!("unsigned {other:?} is not known; use require or allow")),
        };
        Ok(trust)
    }
}
