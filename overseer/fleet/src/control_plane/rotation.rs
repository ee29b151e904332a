//! Certificates that change while labors are there: the authority's, when somebody asks for it,
//! and the gateway's own, before it runs out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_protocol::proto::{self, order};
use overseer_protocol::{FleetName, LaborId, LaborState};

use super::{ControlPlane, ControlPlaneError, SERVER_CERTIFICATE};
use crate::authority::{Authorities, AuthorityError, LINGER, Stage};
use crate::claims::millis;
use crate::clock;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// How far the change of an authority is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityStatus {
    /// The stage.
    pub stage: Stage,
    /// When it began, milliseconds since the epoch; 0 if that is not known.
    pub since_ms: u64,
    /// PEM of all authorities that are trusted, by labors or by clients.
    pub bundle: String,
    /// Until when listeners of clients have their certificates of the authority that was before,
    /// milliseconds since the epoch; none if they have them as the gateway has.
    pub clients_until_ms: Option<u64>,
    /// When the newest one ends, milliseconds since the epoch.
    pub ends_ms: u64,
    /// Labors that have not shown a certificate of the newest one yet; none while the stage is
    /// [`Stage::Settled`].
    pub waits_for: Vec<(FleetName, LaborId)>,
}

/// Why the authority is not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// One change at a time.
    #[error("the authority is being changed already: {}; look at it with `overseer authority show`", .0.name())]
    UnderWay(Stage),
    /// Clients that know only the one before are still served.
    #[error(
        "clients that know only the authority before the present one are still served; wait for the end of that, which `overseer authority show` tells, or end it with a linger of 0s"
    )]
    Lingering {
        /// Until when, milliseconds since the epoch.
        until_ms: u64,
    },
    /// The new one could not be made or stored.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It could not be served with.
    #[error(transparent)]
    Serving(#[from] ControlPlaneError),
}

impl RotationError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnderWay(_) => "authority.under_way",
            Self::Lingering { .. } => "authority.lingering",
            Self::Authority(error) => error.code(),
            Self::Serving(error) => error.code(),
        }
    }
}

impl ControlPlane {
    /// Makes a new authority that takes the place of the present one: labors get certificates of
    /// it and are told to trust both, and when the last one has shown that it does, the old one is
    /// given up. That follows by itself, also over restarts; nobody is disconnected.
    ///
    /// Clients of listeners with a [`ControlPlane::server_identity`] do not hear of it by themselves.
    /// Such listeners have theirs of the old authority for `linger`, in which each client is to be
    /// given [`AuthorityStatus::bundle`]. With zero, which ends a linger as well, they meet the new one
    /// as soon as it signs for listeners.
    ///
    /// # Errors
    /// Each [`RotationError`]; nothing is changed then.
    pub async fn rotate_authority(&self, linger: Duration) -> Result<AuthorityStatus, RotationError> {
        let rotating = self.inner.rotating.lock().await;
        let (authorities, now) = (self.authorities(), clock::now());
        match (authorities.stage(), authorities.clients_until_ms()) {
            (Stage::Settled, Some(until_ms)) if !linger.is_zero() => {
                return Err(RotationError::Lingering { until_ms });
            }
            (Stage::Settled, _) => {
                self.take(authorities.introduce(self.store(), linger, now).await?)?;
            }
            (under_way, _) => return Err(RotationError::UnderWay(under_way)),
        }
        drop(rotating);
        Ok(self.authority_status())
    }

    /// How far a change of the authority is.
    pub fn authority_status(&self) -> AuthorityStatus {
        let authorities = self.authorities();
        let waits_for = match authorities.stage() {
            Stage::Settled => Vec::new(),
            _ => self.behind(&authorities),
        };
        AuthorityStatus {
            stage: authorities.stage(),
            since_ms: authorities.since_ms(),
            bundle: authorities.clients_bundle().to_owned(),
            clients_until_ms: authorities.clients_until_ms(),
            ends_ms: millis(authorities.labors().not_after()),
            waits_for,
        }
    }

    /// The authorities as they are now.
    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.inner.authorities.read())
    }

    /// Lives that may need the old authority still.
    fn behind(&self, authorities: &Authorities) -> Vec<(FleetName, LaborId)> {
        let newest = authorities.labors().name();
        let mut behind = Vec::new();
        for (name, registered) in &*self.inner.fleets.read() {
            let labors = registered.shared.labors.read();
            for labor in labors.values() {
                let status = labor.status.borrow();
                let over = matches!(
                    status.state,
                    LaborState::Backoff | LaborState::Terminating | LaborState::Terminated
                );
                let shown = labor.shown.lock().as_ref().is_some_and(|(generation, authority)| {
                    (*generation, &**authority) == (status.generation, newest)
                });
                if !over && !shown {
                    behind.push((name.clone(), labor.id));
                }
            }
        }
        behind.sort_unstable();
        behind
    }

    /// Goes on with what the store has by now.
    fn take(&self, next: Authorities) -> Result<(), RotationError> {
        let next = Arc::new(next);
        let before = std::mem::replace(&mut *self.inner.authorities.write(), Arc::clone(&next));
        self.serve_anew()?;
        if before.stage() == next.stage() {
            tracing::info!("clients that know only the old certificate authority are served no more");
            return Ok(());
        }
        tracing::info!(stage = next.stage().name(), "the certificate authority is changed");
        if next.stage() == Stage::Introduced {
            let fleets = self.inner.fleets.read();
            for registered in fleets.values() {
                for session in registered.shared.sessions.lock().values() {
                    session.order(order::Kind::Renewal(proto::Renewal {}));
                }
            }
        }
        Ok(())
    }

    /// Serves who connects from now on with a new certificate, and trusts whom the authorities say.
    pub(super) fn serve_anew(&self) -> Result<(), ControlPlaneError> {
        let authorities = self.authorities();
        let (now, ttl) = clock::now_for_all(SERVER_CERTIFICATE);
        let identity = authorities.listeners().server_identity(&[], ttl, now)?;
        let routers = self.inner.listening.give(self.clone(), authorities.bundle(), &identity)?;
        self.inner.servers.lock().extend(routers);
        *self.inner.served_until.lock() = identity.not_after;
        self.inner.certificates.send_modify(|times| *times += 1);
        Ok(())
    }

    /// Does what is due, for as long as the control plane runs.
    pub(super) async fn keep_certificates(self) {
        let mut stopped = self.inner.shutdown.subscribe();
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let _rotating = self.inner.rotating.lock().await;
            if let Err(error) = self.due(clock::now()).await {
                tracing::error!(%error, "the certificates could not be changed; trying again");
            }
        }
    }

    async fn due(&self, now: SystemTime) -> Result<(), RotationError> {
        let authorities = self.authorities();
        let lasts = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let stage_lasts = lasts.saturating_sub(Duration::from_millis(authorities.since_ms()));
        let due = match authorities.stage() {
            Stage::Settled => false,
            // Fleets may still come whose labors know the old one only.
            _ if self.is_settling() || !self.inner.left.read().is_empty() => false,
            Stage::Introduced => self.behind(&authorities).is_empty(),
            Stage::Switched => stage_lasts >= LINGER && self.behind(&authorities).is_empty(),
        };
        if due {
            return self.take(authorities.advance(self.store(), now).await?);
        }
        if authorities.clients_until_ms().is_some_and(|until| until <= millis(now)) {
            return self.take(authorities.end_linger(self.store(), now).await?);
        }
        let renew = self.inner.served_until.lock().checked_sub(SERVER_CERTIFICATE / 3);
        if renew.is_some_and(|renew| renew <= now) && authorities.listeners().not_after() > now {
            self.serve_anew()?;
        }
        Ok(())
    }
}
