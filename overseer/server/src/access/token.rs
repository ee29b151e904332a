//! A token: its text, what is kept of it, and whether it is good. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use overseer::FleetName;
use overseer_protocol::Secret;
use serde::{Deserialize, Serialize};

use super::Role;

/// What every token begins with, so that it is known for one wherever it is found.
pub(crate) const PREFIX: &str = "ovr_";
/// Random bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;
/// Random bytes of an id.
pub(crate) const ID_BYTES: usize = 8;
/// Longest name, in characters.
pub(crate) const NAME: usize = 64;

/// The part of a token that is no secret: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TokenId([u8; ID_BYTES]);

impl TokenId {
    /// Of random bytes.
    pub(crate) fn of(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        unhex(text).map(Self).ok_or(())
    }
}

/// A whole token: `ovr_ID_SECRET`, both in lower-case hexadecimal digits.
#[derive(Debug, Clone)]
pub(crate) struct TokenText {
    pub(crate) id: TokenId,
    secret: Secret<[u8; SECRET_BYTES]>,
}

impl TokenText {
    /// Of random bytes, which must come from the system.
    pub(crate) fn of(id: TokenId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, secret: Secret::new(secret) }
    }

    /// Reads one; none when the text is no token.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        Some(Self { id: id.parse().ok()?, secret: Secret::new(unhex(secret)?) })
    }

    /// To be shown once.
    pub(crate) fn text(&self) -> Secret<String> {
        let secret: String = self.secret.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        Secret::new(format!("{PREFIX}{}_{secret}", self.id))
    }

    /// What is kept of it. The secret is as random as a key, so that no slow hash is needed.
    pub(crate) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("overseer token of the control API v1");
        hasher.update(&self.id.0).update(self.secret.expose());
        hasher.finalize()
    }
}

/// What is kept of a token: JSON under `tokens/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    pub(crate) name: String,
    pub(crate) role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fleet: Option<FleetName>,
    /// BLAKE3 of id and secret, hexadecimal.
    pub(crate) hash: String,
    pub(crate) created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked_ms: Option<u64>,
    /// The secret before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Previous>,
}

/// A secret that was replaced and is still good for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) hash: String,
    pub(crate) until_ms: u64,
}

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    Good,
    Expired,
    Revoked,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The secret is not of this token, or is one that was replaced too long ago.
    Wrong,
    /// Its time is over.
    Expired,
    /// Somebody has ended it.
    Revoked,
}

impl TokenState {
    /// As the API says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl TokenRecord {
    /// Where it stands.
    pub(crate) fn state(&self, now_ms: u64) -> TokenState {
        match (self.revoked_ms, self.expires_ms) {
            (Some(_), _) => TokenState::Revoked,
            (None, Some(end)) if end <= now_ms => TokenState::Expired,
            _ => TokenState::Good,
        }
    }

    /// When it was over; none while it is good.
    pub(crate) fn over_since(&self, now_ms: u64) -> Option<u64> {
        match self.state(now_ms) {
            TokenState::Good => None,
            TokenState::Expired => self.expires_ms,
            TokenState::Revoked => self.revoked_ms,
        }
    }

    /// Whether a secret with this hash is good now, and until when. Takes as long for one that is
    /// nearly right as for one that is all wrong; who has none of the secrets is not told where
    /// the token stands.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn check(&self, shown: blake3::Hash, now_ms: u64) -> Result<Option<u64>, Refused> {
        let newest = is(&self.hash, shown);
        let before = self.previous.as_ref().is_some_and(|previous| is(&previous.hash, shown));
        if !newest && !before {
            return Err(Refused::Wrong);
        }
        match self.state(now_ms) {
            TokenState::Revoked => return Err(Refused::Revoked),
            TokenState::Expired => return Err(Refused::Expired),
            TokenState::Good => {}
        }
        let overlap = self.previous.as_ref().filter(|_| !newest).map(|previous| previous.until_ms);
        match overlap {
            Some(until) if until <= now_ms => Err(Refused::Expired),
            Some(until) => Ok(Some(self.expires_ms.map_or(until, |end| end.min(until)))),
            None => Ok(self.expires_ms),
        }
    }

    /// With a new secret. The one before stays good for the overlap; one before that does not.
    pub(crate) fn rotate(&mut self, hash: blake3::Hash, overlap: Duration, now_ms: u64) {
        let old = std::mem::replace(&mut self.hash, hash.to_hex().to_string());
        let until_ms = now_ms.saturating_add(millis(overlap));
        self.previous = (!overlap.is_zero()).then_some(Previous { hash: old, until_ms });
    }
}

/// In whole milliseconds, as records and the API have it; the largest `u64` where it is longer.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Compares in constant time.
fn is(kept: &str, shown: blake3::Hash) -> bool {
    blake3::Hash::from_hex(kept).is_ok_and(|kept| kept == shown)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: u8) -> TokenText {
        TokenText::of(TokenId::of([0xab; 8]), [secret; 32])
    }

    fn record() -> TokenRecord {
        TokenRecord {
            name: "ci".into(),
            role: Role::Operator,
            fleet: None,
            hash: token(1).hash().to_hex().to_string(),
            created_ms: 1000,
            expires_ms: Some(5000),
            revoked_ms: None,
            previous: None,
        }
    }

    #[test]
    fn a_text_is_read_as_it_was_written_and_shown_to_nobody() {
        let text = token(0x1f).text();
        assert_eq!(*text.expose(), format!("ovr_{}_{}", "ab".repeat(8), "1f".repeat(32)));
        let read = TokenText::parse(text.expose()).unwrap();
        assert_eq!((read.id, read.hash()), (token(0x1f).id, token(0x1f).hash()));
        assert!(!format!("{read:?} {text:?}").contains("1f1f") && !format!("{read:?}").contains("31, 31"));
        let good = text.expose();
        for bad in ["", "ovr_", "ovr__", "Bearer", &good[..good.len() - 1], &format!("{good}0")] {
            assert!(TokenText::parse(bad).is_none(), "{bad}");
        }
        for (from, to) in
            [("ovr_", "ovx_"), ("ab_", "aB_"), ("ab_", "ab-"), ("1f1f", "1g1f"), ("1f1f", "1é1")]
        {
            assert!(TokenText::parse(&good.replacen(from, to, 1)).is_none(), "{to}");
        }
    }

    #[test]
    fn only_its_own_secret_is_taken_and_only_in_its_time() {
        let mut kept = record();
        assert_eq!(kept.check(token(1).hash(), 4999), Ok(Some(5000)));
        assert_eq!(kept.check(token(2).hash(), 4999), Err(Refused::Wrong));
        // The same secret under another id is another one.
        let other = TokenText::of(TokenId::of([1; 8]), [1; 32]);
        assert_eq!(kept.check(other.hash(), 4999), Err(Refused::Wrong));
        assert_eq!(kept.check(token(1).hash(), 5000), Err(Refused::Expired));
        assert_eq!(kept.check(token(2).hash(), 5000), Err(Refused::Wrong));
        kept.revoked_ms = Some(2000);
        assert_eq!(kept.check(token(1).hash(), 3000), Err(Refused::Revoked));
        assert_eq!((kept.over_since(3000), kept.state(9000).name()), (Some(2000), "revoked"));
        kept.hash = "no hash".into();
        assert_eq!(kept.check(token(1).hash(), 3000), Err(Refused::Wrong));
    }

    #[test]
    fn a_replaced_secret_is_good_for_the_overlap_and_only_the_last_one() {
        let mut kept = record();
        kept.rotate(token(2).hash(), Duration::from_secs(1), 2000);
        assert_eq!(kept.check(token(1).hash(), 2999), Ok(Some(3000)));
        assert_eq!(kept.check(token(2).hash(), 2999), Ok(Some(5000)));
        assert_eq!(kept.check(token(1).hash(), 3000), Err(Refused::Expired));
        kept.rotate(token(3).hash(), Duration::from_secs(60), 2500);
        assert_eq!(kept.check(token(1).hash(), 2600), Err(Refused::Wrong));
        // Never longer than the token itself.
        assert_eq!(kept.check(token(2).hash(), 2600), Ok(Some(5000)));
        kept.rotate(token(4).hash(), Duration::ZERO, 2600);
        assert_eq!(kept.check(token(3).hash(), 2600), Err(Refused::Wrong));
    }

    #[test]
    fn the_stored_form_is_stable_and_has_no_secret() {
        let mut kept = record();
        kept.fleet = Some("web".parse().unwrap());
        let json = serde_json::to_string(&kept).unwrap();
        let hash = &kept.hash;
        let form = format!(
            r#"{{"name":"ci","role":"operator","fleet":"web","hash":"{hash}","created_ms":1000,"expires_ms":5000}}"#
        );
        assert_eq!(json, form);
        assert_eq!(serde_json::from_str::<TokenRecord>(&json).unwrap(), kept);
        assert!(!json.contains(&"01".repeat(32)));
    }
}
