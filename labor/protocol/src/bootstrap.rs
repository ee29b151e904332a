use serde::{Deserialize, Serialize};

use crate::{Claim, FleetName, Isolation, ReleaseCache};

/// Largest bootstrap document, in bytes, so that it fits EC2 user data.
pub const MAX_BOOTSTRAP_BYTES: usize = 16 * 1024;

/// Where an Overseer listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// A unix socket on the same machine.
    Unix(std::path::PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

/// What an agent does when its Overseer is gone for longer than the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLeaseLost {
    /// End: nothing outlives its owner.
    #[default]
    End,
    /// Keep what runs and dial on: for hosts with workloads.
    Keep,
}

/// Everything that an empty node is told: where to call, whom to trust, who it may become.
/// JSON, under [`MAX_BOOTSTRAP_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Version of this document's form.
    pub format: u32,
    /// The fleet that the node belongs to.
    pub fleet: FleetName,
    /// Tried in order, again and again.
    pub endpoints: Vec<Endpoint>,
    /// PEM of the authorities that sign the Overseer's certificate.
    pub authorities: String,
    /// By what the node is told from those of other Overseers, where the authorities do not say it
    /// any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Public keys, hex, whose signature makes a release trusted.
    #[serde(default)]
    pub release_keys: Vec<String>,
    /// Who the node may become, once.
    pub claim: Claim,
    /// How long the node lives without word from its Overseer, in milliseconds.
    pub lease_ms: u64,
    /// What happens then.
    #[serde(default)]
    pub on_lease_lost: OnLeaseLost,
    /// The agent reads its standard input to the end, and ends with it: the owner's pipe.
    #[serde(default)]
    pub owner_pipe: bool,
    /// Where the agent keeps its files; a directory of its own choice when absent.
    #[serde(default)]
    pub directory: Option<std::path::PathBuf>,
    /// What the node keeps of releases.
    #[serde(default, skip_serializing_if = "ReleaseCache::is_default")]
    pub cache: ReleaseCache,
    /// What a plugin host may be and use.
    #[serde(default, skip_serializing_if = "Isolation::is_default")]
    pub isolation: Isolation,
    /// Passed on to the plugin host's environment.
    #[serde(default)]
    pub environment: std::collections::BTreeMap<String, String>,
}

/// Why a document is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Over the limit.
    #[error(
        "the bootstrap document has {0} bytes, more than the {MAX_BOOTSTRAP_BYTES} allowed; give fewer endpoints or authorities"
    )]
    TooLarge(usize),
    /// Of another version.
    #[error(
        "the bootstrap document has format {0}, this agent reads format 1; use an agent of the Overseer's version"
    )]
    Format(u32),
    /// Not the expected JSON.
    #[error("the bootstrap document cannot be read: {0}; write it anew with the Overseer that made it")]
    Json(#[from] serde_json::Error),
    /// Nothing to dial.
    #[error("the bootstrap document names no endpoint")]
    NoEndpoint,
}

impl BootstrapError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "bootstrap.too_large",
            Self::Format(_) => "bootstrap.format",
            Self::Json(_) => "bootstrap.unreadable",
            Self::NoEndpoint => "bootstrap.no_endpoint",
        }
    }
}

/// A short name of the Overseer that has these authorities (PEM): 32 hexadecimal digits. Two that
/// have a fleet of the same name are told apart by it.
pub fn owner_name(authorities: &str) -> String {
    blake3::hash(authorities.as_bytes()).to_hex()[..32].to_owned()
}

impl Bootstrap {
    /// Whose node it makes: see [`owner_name`].
    pub fn owner(&self) -> String {
        self.owner.clone().unwrap_or_else(|| owner_name(&self.authorities))
    }

    /// The form that this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// JSON.
    ///
    /// # Errors
    /// [`BootstrapError::TooLarge`].
    pub fn to_json(&self) -> Result<Vec<u8>, BootstrapError> {
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > MAX_BOOTSTRAP_BYTES {
            return Err(BootstrapError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads and checks a document.
    ///
    /// # Errors
    /// Each [`BootstrapError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, BootstrapError> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        if bytes.len() > MAX_BOOTSTRAP_BYTES {
            return Err(BootstrapError::TooLarge(bytes.len()));
        }
        let form: Form = serde_json::from_slice(bytes)?;
        if form.format != Self::FORMAT {
            return Err(BootstrapError::Format(form.format));
        }
        let document: Self = serde_json::from_slice(bytes)?;
        if document.endpoints.is_empty() {
            return Err(BootstrapError::NoEndpoint);
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, LaborId, Secret};

    fn document() -> Bootstrap {
        Bootstrap {
            format: 1,
            fleet: "farm".parse().unwrap(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:1".into()), Endpoint::Unix("/run/o.sock".into())],
            authorities: "PEM".into(),
            release_keys: vec![],
            claim: Claim::Labor {
                labor: LaborId::new(1, 2),
                generation: Generation::FIRST,
                token: Secret::new("t".into()),
            },
            lease_ms: 30_000,
            owner: None,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: true,
            directory: None,
            cache: Default::default(),
            isolation: Default::default(),
            environment: Default::default(),
        }
    }

    #[test]
    fn a_document_is_read_back() {
        let plain = document();
        for cache in
            [ReleaseCache::default(), ReleaseCache::none(), ReleaseCache::at("/var/cache/o").quota(7)]
        {
            let document = Bootstrap { cache, ..plain.clone() };
            assert_eq!(Bootstrap::from_json(&document.to_json().unwrap()).unwrap(), document);
        }
        let isolation = Isolation {
            user: Some("1000:1001".parse().unwrap()),
            memory: Some(1 << 30),
            cpu_milli: Some(1500),
            processes: Some(64),
            open_files: Some(256),
            file_size: Some(0),
            core: Some(0),
            required: true,
        };
        let isolated = Bootstrap { isolation, ..plain.clone() };
        assert_eq!(Bootstrap::from_json(&isolated.to_json().unwrap()).unwrap(), isolated);
        // What is as always takes no room.
        let text = String::from_utf8(plain.to_json().unwrap()).unwrap();
        assert!(!text.contains("cache") && !text.contains("isolation"));
    }

    #[test]
    fn bad_documents_say_what_is_wrong() {
        let mut other = serde_json::to_value(document()).unwrap();
        other["format"] = 2.into();
        let read = |v: &serde_json::Value| Bootstrap::from_json(&serde_json::to_vec(v).unwrap());
        assert!(matches!(read(&other), Err(BootstrapError::Format(2))));
        other["format"] = 1.into();
        other["endpoints"] = serde_json::json!([]);
        assert!(matches!(read(&other), Err(BootstrapError::NoEndpoint)));
        other["surprise"] = 1.into();
        assert!(read(&other).unwrap_err().to_string().contains("surprise"));
        assert!(matches!(Bootstrap::from_json(&vec![b' '; 20_000]), Err(BootstrapError::TooLarge(20_000))));
        let mut large = document();
        large.authorities = "x".repeat(20_000);
        assert!(matches!(large.to_json(), Err(BootstrapError::TooLarge(_))));
    }
}
