//! A bootstrap document as a line of text that a person copies from one machine to another.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;

use crate::{Bootstrap, BootstrapError, MAX_BOOTSTRAP_BYTES, Secret};

/// How every such token begins.
pub const JOIN_TOKEN_PREFIX: &str = "overseer-join-";
/// Longest token, in bytes.
pub const MAX_JOIN_TOKEN_BYTES: usize =
    JOIN_TOKEN_PREFIX.len() + (CHECKSUM + EXPIRY + MAX_BOOTSTRAP_BYTES).div_ceil(3) * 4;

const CHECKSUM: usize = 8;
const EXPIRY: usize = 8;

/// What a machine is given that joins by hand: [`JOIN_TOKEN_PREFIX`] and, in base64url without
/// padding, 8 bytes of BLAKE3 over the rest, the time until it is good in milliseconds since the
/// epoch (big-endian), and the document. The time is for what is said of it only: whether the token
/// is still good is for its Overseer to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The document, with the claim in it.
    pub bootstrap: Bootstrap,
    /// Until when it is good.
    pub until: SystemTime,
}

/// Why a text is no token. The text itself is never shown.
#[derive(Debug, thiserror::Error)]
pub enum JoinTokenError {
    /// Something else.
    #[error(
        "this is no token of an invitation, which begins with {JOIN_TOKEN_PREFIX}; copy the whole command that `overseer fleet invite` has printed"
    )]
    NotOne,
    /// Its checksum is not that of what is there.
    #[error(
        "the token is cut short or has a mistake in it ({0} characters are here); copy the whole command again, or pipe the token in with `-`, for a terminal may cut a long line"
    )]
    Damaged(usize),
    /// What is in it cannot be used.
    #[error(transparent)]
    Document(#[from] BootstrapError),
}

impl JoinTokenError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotOne => "join_token.not_one",
            Self::Damaged(_) => "join_token.damaged",
            Self::Document(error) => error.code(),
        }
    }
}

impl JoinToken {
    /// One line of text.
    ///
    /// # Errors
    /// [`BootstrapError::TooLarge`].
    pub fn encode(&self) -> Result<Secret<String>, BootstrapError> {
        let since = self.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let until = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let body = [&until.to_be_bytes()[..], &self.bootstrap.to_json()?].concat();
        let bytes = [&checksum(&body)[..], &body].concat();
        Ok(Secret::new(format!("{JOIN_TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))))
    }

    /// Reads a token. Blanks and line ends, which a mail or a terminal may have put in, do not count.
    ///
    /// # Errors
    /// Each [`JoinTokenError`].
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text: String =
            text.chars().filter(|c| !c.is_whitespace()).take(MAX_JOIN_TOKEN_BYTES + 1).collect();
        let rest = text.strip_prefix(JOIN_TOKEN_PREFIX).ok_or(JoinTokenError::NotOne)?;
        let damaged = || JoinTokenError::Damaged(text.chars().count());
        let bytes = BASE64URL_NOPAD.decode(rest.as_bytes()).map_err(|_| damaged())?;
        let (sum, body) = bytes.split_at_checked(CHECKSUM).ok_or_else(damaged)?;
        let (until, document) = body.split_first_chunk::<EXPIRY>().ok_or_else(damaged)?;
        if checksum(body) != *sum {
            return Err(damaged());
        }
        let since = Duration::from_millis(u64::from_be_bytes(*until));
        let until = SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(damaged)?;
        Ok(Self { bootstrap: Bootstrap::from_json(document)?, until })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let hash = blake3::derive_key("overseer token of an invitation v1", body);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hash[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, Endpoint, Generation, LaborId, OnLeaseLost};

    fn token() -> JoinToken {
        let claim = Claim::Labor {
            labor: LaborId::new(1, 2),
            generation: Generation::FIRST,
            token: Secret::new("hunter2".into()),
        };
        let bootstrap = Bootstrap {
            format: 1,
            fleet: "farm".parse().unwrap(),
            endpoints: vec![Endpoint::Tcp("127.0.0.1:1".into())],
            authorities: "PEM".into(),
            owner: None,
            release_keys: vec![],
            claim,
            lease_ms: 30_000,
            on_lease_lost: OnLeaseLost::End,
            owner_pipe: false,
            directory: None,
            cache: Default::default(),
            isolation: Default::default(),
            environment: Default::default(),
        };
        JoinToken { bootstrap, until: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123) }
    }

    #[test]
    fn a_token_is_one_line_and_is_read_back_also_when_it_was_wrapped() {
        let text = token().encode().unwrap();
        let text = text.expose();
        assert!(text.starts_with("overseer-join-") && text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        assert_eq!(JoinToken::parse(text).unwrap(), token());
        let wrapped = format!("  {}\r\n{} \n", &text[..80], &text[80..]);
        assert_eq!(JoinToken::parse(&wrapped).unwrap(), token());
    }

    #[test]
    fn a_cut_and_every_mistake_is_seen_and_nothing_is_shown() {
        let text = token().encode().unwrap().expose().clone();
        for length in 0..text.len() {
            let error = JoinToken::parse(&text[..length]).unwrap_err();
            let expected =
                if length < JOIN_TOKEN_PREFIX.len() { "join_token.not_one" } else { "join_token.damaged" };
            assert_eq!(error.code(), expected, "{length}");
            assert!(!error.to_string().contains(&text[JOIN_TOKEN_PREFIX.len()..][..8]), "{error}");
        }
        for at in JOIN_TOKEN_PREFIX.len()..text.len() {
            let mut mistaken = text.clone().into_bytes();
            mistaken[at] = if mistaken[at] == b'A' { b'B' } else { b'A' };
            let mistaken = String::from_utf8(mistaken).unwrap();
            assert_eq!(JoinToken::parse(&mistaken).unwrap_err().code(), "join_token.damaged", "{at}");
        }
        assert_eq!(JoinToken::parse("l-01k9").unwrap_err().code(), "join_token.not_one");
        let long = format!("{text}{}", "A".repeat(2 * MAX_JOIN_TOKEN_BYTES));
        assert_eq!(JoinToken::parse(&long).unwrap_err().code(), "join_token.damaged");
    }
}
