use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a node keeps of releases, so that a chunk travels to a host once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReleaseCache {
    /// Shared by all agents of a host that are told the same one and run as the same user. None:
    /// where whoever starts the node decides, else below the agent's own directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Bytes that may lie there; what was used longest ago goes first. What runs stays, even where
    /// that is more. 0: nothing is kept.
    pub quota: u64,
}

impl ReleaseCache {
    /// Bytes that may lie in a cache for which nobody says how many: 2 GiB.
    pub const DEFAULT_QUOTA: u64 = 2 << 30;

    /// No cache: every labor fetches all that it runs.
    pub fn none() -> Self {
        Self { directory: None, quota: 0 }
    }

    /// One in this directory of the node.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), ..Self::default() }
    }

    /// With so many bytes.
    #[must_use]
    pub fn quota(mut self, bytes: u64) -> Self {
        self.quota = bytes;
        self
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for ReleaseCache {
    fn default() -> Self {
        Self { directory: None, quota: Self::DEFAULT_QUOTA }
    }
}
