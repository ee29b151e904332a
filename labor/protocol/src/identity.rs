use serde::{Deserialize, Serialize};

use crate::{FleetName, Generation, LaborId, Secret};

/// What a new node shows to get an identity. One-time; stored by the Overseer as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Claim {
    /// For one node that the Overseer has named.
    Labor {
        /// The labor.
        labor: LaborId,
        /// Its life.
        generation: Generation,
        /// 32 random bytes as hex.
        token: Secret<String>,
    },
    /// For many nodes that share one user data: admitted once for each instance.
    Batch {
        /// Which batch.
        batch: String,
        /// 32 random bytes as hex.
        token: Secret<String>,
        /// The provider's name of the instance.
        instance: String,
        /// The provider's signed proof of that name.
        proof: Secret<String>,
    },
}

/// Who a labor is, as its certificate says in a URI: `overseer://FLEET/LABOR/GENERATION`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its fleet.
    pub fleet: FleetName,
    /// The labor.
    pub labor: LaborId,
    /// Its life.
    pub generation: Generation,
}

/// Why a URI names no labor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no labor; expected overseer://FLEET/LABOR/GENERATION")]
pub struct IdentityError(pub String);

impl IdentityError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "id.no_labor"
    }
}

impl Identity {
    /// As in the certificate.
    pub fn to_uri(&self) -> String {
        format!("overseer://{}/{}/{}", self.fleet, self.labor, self.generation)
    }

    /// From a certificate's URI.
    ///
    /// # Errors
    /// Anything but exactly what [`Identity::to_uri`] writes.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let error = || IdentityError(uri.chars().take(200).collect());
        let mut parts = uri.strip_prefix("overseer://").ok_or_else(error)?.split('/');
        let (Some(fleet), Some(labor), Some(generation), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        Ok(Self {
            fleet: fleet.parse().map_err(|_| error())?,
            labor: labor.parse().map_err(|_| error())?,
            generation: Generation(generation.parse().map_err(|_| error())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_and_nothing_else_is() {
        let identity =
            Identity { fleet: "farm".parse().unwrap(), labor: LaborId::new(1, 2), generation: Generation(3) };
        let uri = identity.to_uri();
        assert_eq!(Identity::from_uri(&uri).unwrap(), identity);
        for bad in ["", "overseer://", &format!("{uri}/x"), &uri[..uri.len() - 2], "spiffe://a/b/c"] {
            assert!(Identity::from_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_prints_no_token() {
        let claim = Claim::Labor {
            labor: LaborId::new(1, 2),
            generation: Generation(1),
            token: Secret::new("hunter2".into()),
        };
        assert!(!format!("{claim:?}").contains("hunter2"));
    }
}
