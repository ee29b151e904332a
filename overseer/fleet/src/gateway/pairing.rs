use std::time::{Duration, SystemTime};

use overseer_protocol::proto::pairing_server::Pairing;
use overseer_protocol::proto::{self, JoinRequest, JoinResponse};
use overseer_protocol::{Claim, Facts, Identity, PROTOCOL};
use tonic::{Request, Response, Status};

use super::Gateway;
use super::peer::place;
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use crate::core::{Event, Life};
use crate::metrics::one;

/// How long a labor's certificate is good. It is renewed after two thirds of that: what is left then is
/// by how much a clock may jump forward before a labor that has to dial again is refused.
pub(super) const CERTIFICATE: Duration = Duration::from_secs(18 * 3600);

#[tonic::async_trait]
impl Pairing for Gateway {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let place = place(&request).cloned();
        self.pair(request.into_inner()).await.map(Response::new).map_err(|refused| match refused {
            Refused::ToComeAgain(status) => status,
            // Looked at as long as it may be good, however many have failed before: who is good
            // waits for nobody.
            Refused::ForGood(status, why) => self.refused(place.as_ref(), status, |status| {
                tracing::warn!(code = ?status.code(), "{why}");
            }),
        })
    }
}

/// Why a node did not become a labor.
enum Refused {
    /// It may be good the next time, or is ours.
    ToComeAgain(Status),
    /// It will not be; with what the log may know.
    ForGood(Status, String),
}

impl Refused {
    fn for_good(status: Status) -> Self {
        let why = format!("a node was not let in: {}", status.message());
        Self::ForGood(status, why)
    }
}

impl Gateway {
    async fn pair(&self, request: JoinRequest) -> Result<JoinResponse, Refused> {
        let counters = self.plane.counters();
        let count = |reason: &str| counters.refused.add(reason);
        let agreed = PROTOCOL.agree(request.versions).map_err(Status::failed_precondition);
        let version = agreed.inspect_err(|_| count("version")).map_err(Refused::for_good)?;
        let unreadable = |what: &str, error: serde_json::Error| {
            count("malformed");
            Refused::for_good(Status::invalid_argument(format!("the {what} cannot be read: {error}")))
        };
        let claim: Claim = serde_json::from_slice(&request.claim).map_err(|e| unreadable("claim", e))?;
        let facts: Facts = serde_json::from_slice(&request.facts).map_err(|e| unreadable("facts", e))?;
        // Before the claim is used up: one who can mend his request may come again.
        let key = Authority::check_request(&request.csr)
            .inspect_err(|_| count("signing_request"))
            .map_err(|error| Refused::for_good(Status::invalid_argument(error.to_string())))?;
        let now = clock::now();
        let identity = self.plane.claims().admit(&claim, key, now).await.map_err(|refused| {
            count(refused.code());
            let why = format!("a claim was refused, of host {}: {refused}", facts.host);
            match refused.is_retryable() {
                true => {
                    tracing::warn!("{why}");
                    Refused::ToComeAgain(Status::unavailable(refused.wire_message()))
                }
                false => Refused::ForGood(Status::unauthenticated(refused.wire_message()), why),
            }
        })?;
        let fleet = self.plane.fleet(&identity.fleet);
        if fleet.is_none() && self.plane.may_come(&identity.fleet) {
            count("fleet_not_there");
            // With the same key the claim is good again.
            let later = format!("fleet {} may still be started", identity.fleet);
            return Err(Refused::ToComeAgain(Status::unavailable(later)));
        }
        let labor = fleet.as_ref().and_then(|f| f.shared.present(identity.labor, identity.generation));
        let (Some(fleet), Some(labor)) = (fleet, labor) else {
            count("life_over");
            // Its claim was good: it has to hear this each time, so that it ends.
            let over = Status::unauthenticated("the claim was made for a life that is over");
            return Err(Refused::ToComeAgain(over));
        };
        *labor.facts.write() = Some(facts.into());
        let issued = self.certificate(&request.csr, &identity);
        let issued = issued.inspect_err(|_| count("signing_request")).map_err(Refused::ToComeAgain)?;
        one(&counters.joined);
        fleet.event(Event::Joined(Life::of(&identity)));
        Ok(JoinResponse { version, identity: Some(issued) })
    }

    pub(super) fn certificate(&self, csr: &[u8], identity: &Identity) -> Result<proto::Identity, Status> {
        let (now, ttl) = clock::now_for_all(CERTIFICATE);
        let authorities = self.plane.authorities();
        let issued =
            authorities.labors().issue(csr, identity, ttl, now).map_err(|error| refused_request(&error))?;
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(proto::Identity {
            certificate: issued.certificate,
            authorities: authorities.bundle().to_owned(),
            not_after: not_after.as_secs(),
        })
    }
}

fn refused_request(error: &AuthorityError) -> Status {
    tracing::warn!(%error, "a signing request was refused");
    Status::invalid_argument(error.to_string())
}
