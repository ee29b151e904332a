use std::sync::Arc;
use std::time::SystemTime;

use overseer_protocol::Identity;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Code, Request, Status};

use super::Gateway;
use crate::authority::{self, Stage};
use crate::clock;
use crate::door::{Place, Placed};
use crate::fleet::FleetHandle;
use crate::labor::LaborShared;

/// Over the unix socket.
type Local = Placed<UdsConnectInfo>;
/// Over TCP.
type Remote = Placed<TcpConnectInfo>;

/// The place of the caller among those who have not proved who they are.
pub(super) fn place<T>(request: &Request<T>) -> Option<&Place> {
    let extensions = request.extensions();
    let local = extensions.get::<Local>().map(|placed| &placed.place);
    local.or_else(|| extensions.get::<Remote>().map(|placed| &placed.place))
}

/// The labor at the other end, as its certificate says.
pub(super) struct Peer {
    pub(super) identity: Identity,
    /// Of the certificate.
    pub(super) not_after: SystemTime,
    pub(super) fleet: FleetHandle,
    pub(super) labor: Arc<LaborShared>,
    /// Its certificate is of the newest authority.
    pub(super) is_newest: bool,
}

impl Gateway {
    /// Who calls. Asked on every request, for a certificate may run out and a life may end
    /// while a connection is open.
    pub(super) fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let extensions = request.extensions();
        let certificates = extensions
            .get::<TlsConnectInfo<Local>>()
            .and_then(TlsConnectInfo::peer_certs)
            .or_else(|| extensions.get::<TlsConnectInfo<Remote>>().and_then(TlsConnectInfo::peer_certs));
        let leaf = certificates.as_ref().and_then(|c| c.first());
        let leaf = leaf.ok_or_else(|| {
            let refusal = Status::unauthenticated("no client certificate; Join first");
            self.refused(place(request), refusal, |_| {
                tracing::warn!("a request came with no client certificate");
            })
        })?;
        let (identity, not_after) = authority::identity_of(leaf).map_err(|error| {
            let refusal = Status::unauthenticated("the client certificate names no labor");
            self.refused(place(request), refusal, |_| {
                tracing::warn!(%error, "a client certificate names no labor");
            })
        })?;
        let authorities = self.plane.authorities();
        let settled = authorities.stage() == Stage::Settled;
        let known = match authorities.trusts(leaf) {
            true => self.known(identity, not_after, settled || authorities.is_newest(leaf)),
            // The connection is older than that.
            false => {
                Err((identity, Status::unauthenticated("the authority of the certificate was given up")))
            }
        };
        let peer = known.map_err(|(identity, refusal)| {
            // Known to be a labor of ours, be it of the past: it has to hear this each time.
            let why = refusal.message();
            match refusal.code() {
                // It comes again, and nothing is wrong with it.
                Code::Unavailable => {
                    tracing::debug!(fleet = %identity.fleet, labor = %identity.labor, why, "a request was put off");
                }
                _ => tracing::warn!(fleet = %identity.fleet, labor = %identity.labor, why, "a request was refused"),
            }
            refusal
        })?;
        if peer.is_newest && !settled {
            let shown = (peer.identity.generation, authorities.labors().name().to_owned());
            *peer.labor.shown.lock() = Some(shown);
        }
        if let Some(place) = place(request) {
            place.proved();
        }
        Ok(peer)
    }

    /// The labor of an identity, if it may still ask for anything.
    fn known(
        &self,
        identity: Identity,
        not_after: SystemTime,
        is_newest: bool,
    ) -> Result<Peer, (Identity, Status)> {
        if clock::now() >= not_after {
            let why = "the client certificate has run out; the labor must end";
            return Err((identity, Status::unauthenticated(why)));
        }
        let Some(fleet) = self.plane.fleet(&identity.fleet) else {
            let refusal = match self.plane.may_come(&identity.fleet) {
                true => Status::unavailable(format!("fleet {} may still be started", identity.fleet)),
                false => Status::permission_denied(format!("there is no fleet {} here", identity.fleet)),
            };
            return Err((identity, refusal));
        };
        let Some(labor) = fleet.shared.present(identity.labor, identity.generation) else {
            let why = format!("life {} of labor {} is over", identity.generation, identity.labor);
            return Err((identity, Status::permission_denied(why)));
        };
        Ok(Peer { identity, not_after, fleet, labor, is_newest })
    }
}
