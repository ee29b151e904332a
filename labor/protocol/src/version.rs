use crate::proto;

/// Protocol versions that this build speaks.
pub const PROTOCOL: Versions = Versions { oldest: 1, newest: 1 };

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Oldest understood.
    pub oldest: u32,
    /// Newest understood.
    pub newest: u32,
}

impl Versions {
    /// The newest version that both understand.
    ///
    /// # Errors
    /// A sentence for the peer that says which side must be renewed.
    pub fn agree(self, peer: Option<proto::Versions>) -> Result<u32, String> {
        let peer = peer.unwrap_or_default();
        let newest = self.newest.min(peer.newest);
        if newest >= self.oldest.max(peer.oldest) && newest > 0 {
            return Ok(newest);
        }
        let who = if peer.newest < self.oldest { "labor" } else { "Overseer" };
        Err(format!(
            "protocol versions differ: the labor speaks {} to {}, the Overseer {} to {}; upgrade the {who}",
            peer.oldest, peer.newest, self.oldest, self.newest
        ))
    }
}

impl From<Versions> for proto::Versions {
    fn from(v: Versions) -> Self {
        Self { oldest: v.oldest, newest: v.newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins_and_a_gap_names_who_must_move() {
        let ours = Versions { oldest: 3, newest: 5 };
        let theirs = |oldest, newest| Some(proto::Versions { oldest, newest });
        assert_eq!(ours.agree(theirs(1, 4)), Ok(4));
        assert_eq!(ours.agree(theirs(5, 9)), Ok(5));
        assert!(ours.agree(theirs(1, 2)).unwrap_err().contains("upgrade the labor"));
        assert!(ours.agree(theirs(6, 9)).unwrap_err().contains("upgrade the Overseer"));
        assert!(ours.agree(None).is_err());
    }
}
