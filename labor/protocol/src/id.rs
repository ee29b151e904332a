use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {expected}")]
pub struct IdError {
    /// The kind of id that was expected.
    pub what: &'static str,
    /// The text as given, cut to 64 characters.
    pub text: String,
    /// What such an id looks like.
    pub expected: &'static str,
}

impl IdError {
    /// Stable code, as ERRORS.md lists it.
    pub fn code(&self) -> &'static str {
        "id.malformed"
    }
}

impl IdError {
    pub(crate) fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.chars().take(64).collect(), expected }
    }
}

macro_rules! text_serde {
    ($id:ident) => {
        impl Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(de)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// One supervised labor, for its whole life. A replacement keeps the id and takes the next
/// [`Generation`]. Sorts by time of creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaborId(Ulid);

impl LaborId {
    /// An id from milliseconds since the epoch and randomness; both are injected.
    pub fn new(millis: u64, random: u128) -> Self {
        Self(Ulid::from_parts(millis, random))
    }

    /// The end of the id, 6 characters: enough to tell the labors of a fleet apart by eye.
    pub fn short(&self) -> String {
        self.0.to_string()[20..].to_ascii_lowercase()
    }

    /// As 128 bits.
    pub fn as_u128(&self) -> u128 {
        self.0.into()
    }
}

impl fmt::Display for LaborId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l-{}", self.0.to_string().to_ascii_lowercase())
    }
}

impl FromStr for LaborId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error =
            || IdError::new("labor id", text, "l- and 26 characters, such as l-01arz3ndektsv4rrffq69g5fav");
        let ulid = text.strip_prefix("l-").ok_or_else(error)?;
        Ulid::from_string(&ulid.to_ascii_uppercase()).map(Self).map_err(|_| error())
    }
}

text_serde!(LaborId);

/// Which life of a labor: 1 for the first node, one more for each replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation of a labor's first node.
    pub const FIRST: Self = Self(1);

    /// The generation of this one's replacement.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One try of a task; a late answer of an older attempt is fenced by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

/// A task or a plain call, unique for the life of a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u128);

impl TaskId {
    /// The id of a stored task, from milliseconds since the epoch and randomness; both are injected.
    /// Sorts by time.
    pub fn new(millis: u64, random: u128) -> Self {
        Self(Ulid::from_parts(millis, random).into())
    }

    /// The id of the plain call `call` of a session with that task prefix.
    pub fn of_call(prefix: u64, call: u64) -> Self {
        Self((u128::from(prefix) << 64) | u128::from(call))
    }

    /// The id that owns what a plugin host or program writes outside of any call.
    pub fn of_host(labor: LaborId, generation: Generation) -> Self {
        Self(labor.as_u128() ^ (u128::from(generation.0) << 96) ^ u128::MAX)
    }

    /// Big-endian bytes, as on the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the 16 bytes of the wire.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t-{:032x}", self.0)
    }
}

impl FromStr for TaskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new("task id", text, "t- and 32 hexadecimal digits");
        let hex = text.strip_prefix("t-").filter(|h| h.len() == 32).ok_or_else(error)?;
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(hex, 16).map(Self).map_err(|_| error())
    }
}

text_serde!(TaskId);

/// A number for each attachment of a labor; what an older session sends is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// The machine's own id: machine id and boot id, hashed. Labors on one machine share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId([u8; 16]);

impl HostId {
    /// From the machine id and the boot id as the system prints them.
    pub fn derive(machine_id: &str, boot_id: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("overseer host id v1");
        hasher.update(machine_id.trim().as_bytes());
        hasher.update(b"\0");
        hasher.update(boot_id.trim().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h-{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for HostId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new("host id", text, "h- and 32 hexadecimal digits");
        let hex = text.strip_prefix("h-").ok_or_else(error)?;
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|_| error())?;
        bytes.try_into().map(Self).map_err(|_| error())
    }
}

text_serde!(HostId);

/// BLAKE3 of a release's signed index: the content address of the release.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReleaseId(pub [u8; 32]);

impl ReleaseId {
    /// The address of these index bytes.
    pub fn of_index(index: &[u8]) -> Self {
        Self(*blake3::hash(index).as_bytes())
    }

    /// From its 32 bytes; none where there are others.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for ReleaseId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new("release id", text, "64 hexadecimal digits");
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| error())?;
        bytes.try_into().map(Self).map_err(|_| error())
    }
}

text_serde!(ReleaseId);

/// Name of a fleet: 1 to 63 of `a-z 0-9 -`, starting with a letter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FleetName(String);

impl FleetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FleetName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let good = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::new("fleet name", text, "1 to 63 of a-z, 0-9 and -, starting with a letter"))
        }
    }
}

text_serde!(FleetName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_what_they_print() {
        let labor = LaborId::new(1_700_000_000_000, 42);
        assert_eq!(labor.to_string().parse::<LaborId>().unwrap(), labor);
        assert_eq!(labor.short().len(), 6);
        let task = TaskId::of_call(7, 9);
        assert_eq!(task.to_string().parse::<TaskId>().unwrap(), task);
        assert_eq!(TaskId::from_bytes(&task.to_bytes()), Some(task));
        let host = HostId::derive("a\n", "b");
        assert_eq!(host.to_string().parse::<HostId>().unwrap(), host);
        assert_eq!(host, HostId::derive("a", "b\n"));
        assert_ne!(host, HostId::derive("ab", ""));
        let release = ReleaseId::of_index(b"x");
        assert_eq!(release.to_string().parse::<ReleaseId>().unwrap(), release);
    }

    #[test]
    fn bad_ids_say_what_was_expected() {
        for bad in ["", "l-", "l-é", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "l-zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"] {
            let error = bad.parse::<LaborId>().unwrap_err().to_string();
            assert!(error.contains("labor id") && error.contains("26 characters"), "{error}");
        }
        for bad in ["", "A", "1a", "a_b", "-a", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<FleetName>().is_err(), "{bad:?}");
        }
        assert!("t-+0000000000000000000000000000001".parse::<TaskId>().is_err());
    }
}
