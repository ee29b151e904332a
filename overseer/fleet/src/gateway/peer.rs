use std::sync::Arc;
use std::time::SystemTime;

use overseer_protocol::Identity;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

use super::Gateway;
use crate::authority;
use crate::clock;
use crate::fleet::FleetHandle;
use crate::labor::LaborShared;

/// The labor at the other end, as its certificate says.
pub(super) struct Peer {
    pub(super) identity: Identity,
    /// Of the certificate.
    pub(super) not_after: SystemTime,
    pub(super) fleet: FleetHandle,
    pub(super) labor: Arc<LaborShared>,
}

impl Gateway {
    /// Who calls. Asked on every request, for a certificate may run out and a life may end
    /// while a connection is open.
    pub(super) fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let extensions = request.extensions();
        let certificates =
            extensions.get::<TlsConnectInfo<UdsConnectInfo>>().and_then(TlsConnectInfo::peer_certs).or_else(
                || extensions.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs),
            );
        let leaf = certificates.as_ref().and_then(|c| c.first());
        let leaf = leaf.ok_or_else(|| {
            tracing::warn!("a request came with no client certificate");
            Status::unauthenticated("no client certificate; Join first")
        })?;
        let (identity, not_after) = authority::identity_of(leaf).map_err(|error| {
            tracing::warn!(%error, "a client certificate names no labor");
            Status::unauthenticated("the client certificate names no labor")
        })?;
        self.known(identity, not_after).map_err(|(identity, refusal)| {
            let why = refusal.message();
            tracing::warn!(fleet = %identity.fleet, labor = %identity.labor, why, "a request was refused");
            refusal
        })
    }

    /// The labor of an identity, if it may still ask for anything.
    fn known(&self, identity: Identity, not_after: SystemTime) -> Result<Peer, (Identity, Status)> {
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
        Ok(Peer { identity, not_after, fleet, labor })
    }
}
