//! The certificate authority of an Overseer: who a labor is comes from a certificate of its own.

mod request;
mod set;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use overseer_protocol::{CLOCK_SKEW, Identity, Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

pub use self::request::{CertificateError, KeyPrint, identity_of};
use self::set::Kept;
pub(crate) use self::set::LINGER;
pub use self::set::{Authorities, Stage};
use crate::keyspace::Value;
use crate::store::{Entry, Revision, Store, StoreError};

/// Where the key and certificate are kept in the store.
const KEY: &str = "authority/ca";
/// How long the authority itself is trusted.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The name that every Overseer's own certificate has, whatever its address.
pub const SERVER_NAME: &str = "overseer";
/// Largest signing request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in the store is no authority.
    #[error(
        "the certificate authority at `{KEY}` in the store is damaged: {0}; restore the store from an export"
    )]
    Damaged(String),
    /// Its ten years are over.
    #[error("the certificate authority has expired; remove `{KEY}` from the store and start the fleets anew")]
    Expired,
    /// Another process has changed the authority meanwhile.
    #[error("the certificate authority was changed by another process; look at it again, then try again")]
    Changed,
    /// The signing request is not one that may be signed.
    #[error(
        "the signing request is refused: {0}; send a PKCS#10 request in DER, signed by its own P-256, P-384 or Ed25519 key"
    )]
    BadRequest(String),
    /// A server's name that no certificate can carry.
    #[error("{0:?} is no host name or IP address for a certificate")]
    BadName(String),
    /// No randomness, or a time that a certificate cannot say.
    #[error("a certificate could not be made: {0}")]
    Failed(String),
}

impl AuthorityError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Damaged(_) => "authority.damaged",
            Self::Expired => "authority.expired",
            Self::Changed => "authority.changed",
            Self::BadRequest(_) => "authority.bad_request",
            Self::BadName(_) => "authority.bad_name",
            Self::Failed(_) => "authority.failed",
        }
    }
}

/// A certificate for a labor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM, leaf first; ends below the authority.
    pub certificate: String,
    /// When it ends, to the second.
    pub not_after: SystemTime,
}

/// A certificate and its key, for a listener.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// PEM, leaf first; ends below the authority.
    pub certificate: String,
    /// PKCS#8 in PEM.
    pub key: Secret<String>,
    /// When it ends, to the second.
    pub not_after: SystemTime,
}

/// Signs certificates of labors and listeners. P-256 by ring.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    name: String,
    der: CertificateDer<'static>,
    not_after: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// The one of this store that signs for labors; see [`Authorities::load_or_create`].
    ///
    /// # Errors
    /// As there.
    pub async fn load_or_create(store: &dyn Store, now: SystemTime) -> Result<Arc<Self>, AuthorityError> {
        Ok(Arc::clone(Authorities::load_or_create(store, now).await?.labors()))
    }

    /// A short name of it, as [`overseer_protocol::owner_name`] makes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// PEM of the authority's certificate, for bootstrap documents.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's certificate, for verifiers.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whether [`Authority::issue`] would take this signing request, and which key it is for.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`].
    pub fn check_request(csr_der: &[u8]) -> Result<KeyPrint, AuthorityError> {
        request::verified_key(csr_der).map(|key| KeyPrint::of(&key)).map_err(AuthorityError::BadRequest)
    }

    /// A client certificate that says `identity`, for the key that signed the request. Nothing
    /// else of the request is used. Valid from a minute before `now` until `ttl` after it, but
    /// not longer than the authority.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`], [`AuthorityError::Failed`].
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let key = request::verified_key(csr_der).map_err(AuthorityError::BadRequest)?;
        let mut params = leaf(&identity.labor.to_string());
        params.subject_alt_names = vec![SanType::URI(text(identity.to_uri())?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, not_after) = self.sign(params, &key, ttl, now)?;
        Ok(Issued { certificate, not_after })
    }

    /// A certificate and a new key for a listener that is called [`SERVER_NAME`] and by these
    /// host names and IP addresses. The caller renews it before its end.
    ///
    /// # Errors
    /// [`AuthorityError::BadName`], [`AuthorityError::Failed`].
    pub fn server_identity(
        &self,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<ServerIdentity, AuthorityError> {
        let mut all: Vec<&str> = vec![SERVER_NAME];
        for name in names {
            if !all.contains(&name.as_str()) {
                all.push(name);
            }
        }
        let mut params = leaf(SERVER_NAME);
        params.subject_alt_names = all.into_iter().map(server_name).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let (certificate, not_after) = self.sign(params, &key, ttl, now)?;
        Ok(ServerIdentity { certificate, key: Secret::new(key.serialize_pem()), not_after })
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(String, SystemTime), AuthorityError> {
        let too_late = || AuthorityError::Failed("its end is too far away".into());
        let not_after = now.checked_add(ttl).ok_or_else(too_late)?.min(self.not_after);
        params.not_before = seconds(now.checked_sub(CLOCK_SKEW).unwrap_or(now))?;
        params.not_after = seconds(not_after)?;
        params.serial_number = Some(serial()?);
        let signed = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok((signed.pem(), params.not_after.into()))
    }

    fn open(certificate: String, key: &Secret<String>, now: SystemTime) -> Result<Self, AuthorityError> {
        let damaged = |error: &dyn fmt::Display| AuthorityError::Damaged(error.to_string());
        let key = KeyPair::from_pem(key.expose()).map_err(|_| damaged(&"its key cannot be read"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| damaged(&e))?;
        let not_after =
            request::check_authority(&der, &key.subject_public_key_info()).map_err(|e| damaged(&e))?;
        if not_after <= now {
            return Err(AuthorityError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| damaged(&e))?;
        let name = overseer_protocol::owner_name(&certificate);
        Ok(Self { issuer, certificate, name, der, not_after })
    }
}

/// Whether what is stored is an authority, be it expired.
pub(crate) fn read_stored(entry: &Entry) -> Result<Value, String> {
    if entry.key != KEY {
        return Err("it is not the key of an authority".to_owned());
    }
    match Authorities::read(&entry.value, Revision::default(), SystemTime::UNIX_EPOCH) {
        Ok(_) => Ok(Value::Alone),
        Err(error) => Err(error.to_string()),
    }
}

fn generate(now: SystemTime) -> Result<Kept, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let serial = serial()?;
    // A name of its own: a verifier that trusts two authorities finds the right one by it.
    let name = serial.to_bytes()[..4].iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut params = leaf(&format!("Overseer authority {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    params.serial_number = Some(serial);
    params.not_before = seconds(now.checked_sub(CLOCK_SKEW).unwrap_or(now))?;
    params.not_after = seconds(now + AUTHORITY_LIFE)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Kept::first(certificate.pem(), Secret::new(key.serialize_pem()), now))
}

fn leaf(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn server_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let good_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner)
    };
    let host = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 || !host.split('.').all(good_label) {
        return Err(AuthorityError::BadName(name.chars().take(80).collect()));
    }
    Ok(SanType::DnsName(text(name.to_owned())?))
}

fn text(text: String) -> Result<rcgen::string::Ia5String, AuthorityError> {
    text.try_into().map_err(failed)
}

/// 127 random bits, as RFC 5280 wants: positive, and no two alike.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| AuthorityError::Failed(e.to_string()))?;
    // Neither negative nor with a leading zero byte.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Certificates say whole seconds.
fn seconds(at: SystemTime) -> Result<OffsetDateTime, AuthorityError> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.map_err(|_| AuthorityError::Failed("the clock is before 1970".into()))?;
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| AuthorityError::Failed(e.to_string()))
}

fn failed(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Failed(error.to_string())
}
