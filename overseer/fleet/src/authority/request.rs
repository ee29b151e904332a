//! What is read out of certificates and signing requests of others.

use std::time::{Duration, SystemTime};

use overseer_protocol::{Identity, IdentityError};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use super::MAX_REQUEST_BYTES;

/// Why a certificate names no labor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in DER.
    #[error("the certificate cannot be read: {0}; let the labor join anew")]
    Unreadable(String),
    /// Not exactly one URI.
    #[error("the certificate carries {0} URIs, a labor's carries one; let the labor join anew")]
    Uris(usize),
    /// The URI is of another kind.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl CertificateError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "certificate.unreadable",
            Self::Uris(_) => "certificate.uris",
            Self::Identity(error) => error.code(),
        }
    }
}

/// Who a certificate of ours says that its holder is, and until when. Its signature is not
/// looked at: TLS has done that.
///
/// # Errors
/// Each [`CertificateError`].
pub fn identity_of(certificate_der: &[u8]) -> Result<(Identity, SystemTime), CertificateError> {
    let certificate = parse(certificate_der).map_err(CertificateError::Unreadable)?;
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|e| CertificateError::Unreadable(e.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else { return Err(CertificateError::Uris(uris.len())) };
    Ok((Identity::from_uri(uri)?, moment(certificate.validity().not_after)))
}

/// Which key a signing request is for: a hash of it, to tell two keys apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPrint(blake3::Hash);

impl KeyPrint {
    pub(super) fn of(key: &SubjectPublicKeyInfo) -> Self {
        Self(blake3::hash(&key.subject_public_key_info()))
    }

    /// One that no other key has.
    #[cfg(test)]
    pub(crate) fn of_some_key() -> Self {
        Self(blake3::hash(&rcgen::KeyPair::generate().unwrap().subject_public_key_info()))
    }

    /// As it is kept: 64 hexadecimal digits.
    pub(crate) fn to_hex(self) -> String {
        self.0.to_hex().to_string()
    }
}

/// The key of a signing request, once the request's own signature is right.
pub(super) fn verified_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, String> {
    if csr_der.len() > MAX_REQUEST_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_REQUEST_BYTES}", csr_der.len()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| "it cannot be read".to_owned())?;
    if !rest.is_empty() {
        return Err("something follows it".to_owned());
    }
    request.verify_signature().map_err(|_| "its signature is wrong".to_owned())?;
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| "its key is of an unknown kind".to_owned())?;
    let known = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if !known.contains(&key.algorithm()) {
        return Err("its key is of a kind that is not accepted".to_owned());
    }
    Ok(key)
}

/// Checks that a certificate is an authority's with this key, and says when it ends.
pub(super) fn check_authority(certificate_der: &[u8], public_key_der: &[u8]) -> Result<SystemTime, String> {
    let certificate = parse(certificate_der)?;
    if !certificate.is_ca() {
        return Err("its certificate is not an authority's".to_owned());
    }
    if certificate.public_key().raw != public_key_der {
        return Err("its key and its certificate do not belong together".to_owned());
    }
    Ok(moment(certificate.validity().not_after))
}

/// Who has signed a certificate, as it says.
pub(super) fn issuer(certificate_der: &[u8]) -> Option<Vec<u8>> {
    parse(certificate_der).ok().map(|certificate| certificate.issuer().as_raw().to_vec())
}

/// Whose certificate it is, as it says.
pub(super) fn subject(certificate_der: &[u8]) -> Option<Vec<u8>> {
    parse(certificate_der).ok().map(|certificate| certificate.subject().as_raw().to_vec())
}

/// The same of one in PEM.
pub(super) fn subject_of_pem(pem: &str) -> Option<Vec<u8>> {
    subject(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("something follows it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Times before 1970 are the epoch: over, in any case.
fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
