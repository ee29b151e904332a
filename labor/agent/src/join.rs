//! Pairing: a claim and a fresh key become an identity; and its renewal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overseer_protocol::proto::{self, pairing_client::PairingClient, session_client::SessionClient};
use overseer_protocol::{CLOCK_SKEW, Claim, Facts, Identity, MAX_MESSAGE, PROTOCOL};
use tonic::transport::{self, Channel};
use tonic::{Code, Status};

use crate::connect::Credentials;
use crate::facts::VERSION;

/// A key that is in memory only, and its signing request.
pub(crate) struct Keys {
    key_pem: String,
    csr: Vec<u8>,
}

/// Who we are from now on.
#[derive(Clone)]
pub(crate) struct Pass {
    pub(crate) credentials: Credentials,
    pub(crate) identity: Identity,
    /// From now; to be renewed after two thirds of it.
    pub(crate) life: Duration,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// It does not help to try again.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Retry(String),
}

impl Pass {
    /// How long to wait before the renewal: two thirds of the life, and never a busy loop.
    pub(crate) fn renew_after(&self) -> Duration {
        (self.life * 2 / 3).max(Duration::from_secs(1))
    }
}

impl Keys {
    /// P-256 and an empty request: the Overseer writes name and extensions itself.
    pub(crate) fn generate() -> Result<Self, JoinError> {
        let make = || {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
            Ok::<_, rcgen::Error>(Self { key_pem: key.serialize_pem(), csr: csr.der().to_vec() })
        };
        make().map_err(|e| JoinError::Retry(format!("no key could be made: {e}")))
    }

    fn pass(&self, reply: proto::Identity) -> Result<Pass, JoinError> {
        let (identity, span) = read(reply.certificate.as_bytes()).ok_or_else(|| {
            JoinError::Refused("the Overseer sent a certificate that names no labor".into())
        })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // A wrong clock must not make us renew without end: then the certificate's own span counts.
        let left = match reply.not_after.saturating_sub(now) {
            0 => span,
            left => left.min(span),
        };
        let credentials = Credentials {
            authorities: reply.authorities,
            identity: Some(transport::Identity::from_pem(reply.certificate, &self.key_pem)),
        };
        Ok(Pass { credentials, identity, life: Duration::from_secs(left) })
    }
}

/// Shows the claim. The same keys may be used for another try: a join whose answer was lost is
/// the same join.
pub(crate) async fn join(
    channel: Channel,
    keys: &Keys,
    claim: &Claim,
    facts: &Facts,
) -> Result<Pass, JoinError> {
    let json = |e: serde_json::Error| JoinError::Refused(format!("the claim cannot be written: {e}"));
    let request = proto::JoinRequest {
        versions: Some(PROTOCOL.into()),
        agent_version: VERSION.to_owned(),
        claim: serde_json::to_vec(claim).map_err(json)?.into(),
        csr: keys.csr.clone().into(),
        facts: serde_json::to_vec(facts).map_err(json)?.into(),
    };
    let mut client = PairingClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let reply = client.join(request).await.map_err(|s| refusal("join", &s))?.into_inner();
    if reply.version < PROTOCOL.oldest || reply.version > PROTOCOL.newest {
        return Err(JoinError::Refused(format!(
            "the Overseer chose protocol version {}, this agent speaks {} to {}; upgrade the labor",
            reply.version, PROTOCOL.oldest, PROTOCOL.newest
        )));
    }
    let none = || JoinError::Refused("the Overseer sent no identity".into());
    keys.pass(reply.identity.ok_or_else(none)?)
}

/// A new certificate for a new key, over the session's connection.
pub(crate) async fn renew(channel: Channel) -> Result<Pass, JoinError> {
    let keys = Keys::generate()?;
    let mut client = SessionClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let request = proto::RenewRequest { csr: keys.csr.clone().into() };
    let reply = client.renew(request).await.map_err(|s| refusal("renewal", &s))?.into_inner();
    keys.pass(reply)
}

/// Which answers end the agent and which are tried again.
pub(crate) fn refusal(what: &str, status: &Status) -> JoinError {
    let text = format!("{what}: {}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
            JoinError::Refused(text)
        }
        _ => JoinError::Retry(text),
    }
}

/// The labor that a certificate names, and for how many seconds it was made.
fn read(pem: &[u8]) -> Option<(Identity, u64)> {
    use x509_parser::extensions::GeneralName;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let identity = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Identity::from_uri(uri).ok(),
        _ => None,
    })?;
    let validity = certificate.validity();
    let span = validity.not_after.timestamp() - validity.not_before.timestamp();
    Some((identity, u64::try_from(span).ok()?.saturating_sub(CLOCK_SKEW.as_secs()).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_up_when_it_is_refused_and_tries_again_when_the_overseer_is_busy() {
        for code in [Code::Unauthenticated, Code::FailedPrecondition, Code::PermissionDenied] {
            assert!(matches!(refusal("join", &Status::new(code, "x")), JoinError::Refused(_)));
        }
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::DeadlineExceeded] {
            assert!(matches!(refusal("join", &Status::new(code, "x")), JoinError::Retry(_)));
        }
    }

    #[test]
    fn a_certificate_that_names_no_labor_is_refused() {
        let keys = Keys::generate().unwrap();
        for certificate in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let reply = proto::Identity { certificate: certificate.into(), ..Default::default() };
            assert!(matches!(keys.pass(reply), Err(JoinError::Refused(_))));
        }
    }
}
