use std::time::{Duration, SystemTime};

use overseer_protocol::proto::pairing_server::Pairing;
use overseer_protocol::proto::{self, JoinRequest, JoinResponse};
use overseer_protocol::{Claim, Facts, Identity, PROTOCOL};
use tonic::{Request, Response, Status};

use super::Gateway;
use crate::authority::{Authority, AuthorityError};
use crate::claims::ClaimRefused;
use crate::clock;
use crate::core::{Event, Life};

/// How long a labor's certificate is good. It is renewed after two thirds of that: what is left then is
/// by how much a clock may jump forward before a labor that has to dial again is refused.
pub(super) const CERTIFICATE: Duration = Duration::from_secs(18 * 3600);

#[tonic::async_trait]
impl Pairing for Gateway {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let version = PROTOCOL.agree(request.versions).map_err(Status::failed_precondition)?;
        let claim: Claim = serde_json::from_slice(&request.claim)
            .map_err(|e| Status::invalid_argument(format!("the claim cannot be read: {e}")))?;
        let facts: Facts = serde_json::from_slice(&request.facts)
            .map_err(|e| Status::invalid_argument(format!("the facts cannot be read: {e}")))?;
        // Before the claim is used up: one who can mend his request may come again.
        let key = Authority::check_request(&request.csr).map_err(|error| refused_request(&error))?;
        let now = clock::now();
        let identity = self.plane.claims().admit(&claim, key, now).await.map_err(|refused| {
            tracing::warn!(%refused, host = %facts.host, "a claim was refused");
            refusal(&refused)
        })?;
        let fleet = self.plane.fleet(&identity.fleet);
        if fleet.is_none() && self.plane.may_come(&identity.fleet) {
            // With the same key the claim is good again.
            return Err(Status::unavailable(format!("fleet {} may still be started", identity.fleet)));
        }
        let labor = fleet.as_ref().and_then(|f| f.shared.present(identity.labor, identity.generation));
        let (Some(fleet), Some(labor)) = (fleet, labor) else {
            return Err(Status::unauthenticated("the claim was made for a life that is over"));
        };
        *labor.facts.write() = Some(facts.into());
        let issued = self.certificate(&request.csr, &identity)?;
        fleet.event(Event::Joined(Life::of(&identity)));
        Ok(Response::new(JoinResponse { version, identity: Some(issued) }))
    }
}

impl Gateway {
    pub(super) fn certificate(&self, csr: &[u8], identity: &Identity) -> Result<proto::Identity, Status> {
        let (now, ttl) = clock::now_for_all(CERTIFICATE);
        let issued =
            self.plane.authority().issue(csr, identity, ttl, now).map_err(|error| refused_request(&error))?;
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(proto::Identity {
            certificate: issued.certificate,
            authorities: self.plane.authorities(),
            not_after: not_after.as_secs(),
        })
    }
}

fn refusal(refused: &ClaimRefused) -> Status {
    let message = refused.wire_message();
    if refused.is_retryable() { Status::unavailable(message) } else { Status::unauthenticated(message) }
}

fn refused_request(error: &AuthorityError) -> Status {
    tracing::warn!(%error, "a signing request was refused");
    Status::invalid_argument(error.to_string())
}
