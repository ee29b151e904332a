use crate::store::StoreError;

/// Why a claim was not admitted. For the log: it says more than a stranger should know.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimRefused {
    /// There is no such labor or batch, or it was never given a claim.
    #[error("no claim of that labor or batch is known; its labor was removed, or it is of another Overseer")]
    Unknown,
    /// The labor or batch is known, the token is not its.
    #[error("the token is not the one that was given out; look for a node with an old bootstrap document")]
    WrongToken,
    /// It was admitted before, for another key.
    #[error("the claim was used before, with another key; if the node is ours it will be replaced")]
    Used,
    /// It came after its time.
    #[error("the claim has expired; if this happens often, give the fleet a longer boot deadline")]
    Late,
    /// It is of another life of the labor.
    #[error("the claim is of another life of the labor; the node was replaced and will be ended")]
    WrongLabor,
    /// All labors of the batch have their node.
    #[error("the batch is complete; the provider has started more instances than were asked for")]
    Full,
    /// The provider did not confirm the instance.
    #[error("the instance is not proved: {0}")]
    NotProved(String),
    /// Others changed the claim again and again.
    #[error("the claim changed too often while it was admitted; the node tries again")]
    Busy,
    /// The store could not be asked.
    #[error(transparent)]
    Store(StoreError),
    /// What the store has is no claim.
    #[error("`{key}` in the store cannot be read: {reason}; remove it, and the labor is replaced")]
    Unreadable {
        /// The key.
        key: String,
        /// What was found.
        reason: String,
    },
}

impl ClaimRefused {
    /// A short stable code, as in metrics and the log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "claim_unknown",
            Self::WrongToken => "claim_wrong_token",
            Self::Used => "claim_used",
            Self::Late => "claim_late",
            Self::WrongLabor => "claim_wrong_labor",
            Self::Full => "claim_batch_full",
            Self::NotProved(_) => "claim_not_proved",
            Self::Busy => "claim_busy",
            Self::Store(error) => error.code(),
            Self::Unreadable { .. } => "claim_unreadable",
        }
    }

    /// Whether the node may try again with the same claim.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Store(_))
    }

    /// What the node is told: the same for every refusal of a claim, so that nobody learns
    /// which labors there are.
    pub fn wire_message(&self) -> &'static str {
        if self.is_retryable() {
            "the claim cannot be looked up now; try again"
        } else {
            "the claim is not valid; end this node, its Overseer's log says why"
        }
    }
}
