use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use ed25519_dalek::Signer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const SECRET_PREFIX: &str = "overseer-secret-key-v1:";
const PUBLIC_PREFIX: &str = "overseer-public-key-v1:";
/// Signed in front of the index, so that a signature means a release and nothing else.
const CONTEXT: &[u8] = b"overseer release index v1\0";

/// What can be wrong with a key or its file. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not the text of a public key.
    #[error(
        "this is no public key; expected 64 hexadecimal digits, alone or behind {PUBLIC_PREFIX}, as in the .pub file"
    )]
    NotPublic,
    /// Not the text of a signing key.
    #[error(
        "{} holds no signing key; expected {SECRET_PREFIX} and 64 hexadecimal digits, as `keygen` writes it",
        .0.display()
    )]
    NotSigning(PathBuf),
    /// Others on the machine can read the signing key.
    #[error("others can read the signing key {}; run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
    /// Would overwrite.
    #[error("{} is there already and is not overwritten; choose another name", .0.display())]
    Exists(PathBuf),
    /// Reading or writing failed.
    #[error("the key file {}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gives no randomness for a new key: {0}; try again later")]
    Random(getrandom::Error),
}

impl KeyError {
    /// A stable code, such as `release.key_exposed`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotPublic => "release.key_not_public",
            Self::NotSigning(_) => "release.key_not_signing",
            Self::Exposed(_) => "release.key_exposed",
            Self::Exists(_) => "release.key_exists",
            Self::Io { .. } => "release.key_io",
            Self::Random(_) => "release.key_random",
        }
    }

    fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => Self::Exists(path.clone()),
            _ => Self::Io { path: path.clone(), source },
        }
    }
}

/// Signs releases. Wiped from memory when dropped; prints as stars.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of these 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// A new key that lives no longer than this value: for an embedded fleet, which trusts what
    /// its own process packs.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(KeyError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// Reads a `.key` file.
    ///
    /// # Errors
    /// No such file, no key in it, or others may read it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let io = KeyError::io(path);
        let file = File::open(path).map_err(&io)?;
        let facts = file.metadata().map_err(&io)?;
        if facts.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        // One byte more than a key needs, so that a longer file shows.
        let mut text = Zeroizing::new(Vec::with_capacity(256));
        std::io::Read::read_to_end(&mut std::io::Read::take(file, 200), &mut text).map_err(&io)?;
        let seed = parse_hex(std::str::from_utf8(&text).unwrap_or_default(), SECRET_PREFIX);
        let seed = Zeroizing::new(seed.ok_or_else(|| KeyError::NotSigning(path.to_owned()))?);
        Ok(Self::from_seed(&seed))
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs the bytes of an index.
    pub fn sign(&self, index: &[u8]) -> Signature {
        Signature { key: self.public().0, signature: self.0.sign(&message(index)).to_bytes() }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// Checks signatures; printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From 32 bytes.
    ///
    /// # Errors
    /// They are no point of the curve, or one under which anything verifies.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(KeyError::NotPublic),
        }
    }

    /// Reads a `.pub` file.
    ///
    /// # Errors
    /// No such file, or no key in it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        std::fs::read_to_string(path).map_err(KeyError::io(path))?.parse()
    }

    /// As 32 bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The text of a `.pub` file, without its newline.
    pub fn to_text(self) -> String {
        format!("{PUBLIC_PREFIX}{self}")
    }

    /// Whether the signature is this key's, over these index bytes.
    pub fn verifies(&self, index: &[u8], signature: &Signature) -> bool {
        signature.key == self.0 && signature.verifies(index)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = parse_hex(text, PUBLIC_PREFIX).or_else(|| parse_hex(text, ""));
        Self::from_bytes(bytes.ok_or(KeyError::NotPublic)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An ed25519 signature over the bytes of an index, with the key it claims to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The public key, 32 bytes.
    pub key: [u8; 32],
    /// The signature, 64 bytes.
    pub signature: [u8; 64],
}

impl Signature {
    /// From the bytes of the wire; none if the lengths are not 32 and 64.
    pub fn from_slices(key: &[u8], signature: &[u8]) -> Option<Self> {
        Some(Self { key: key.try_into().ok()?, signature: signature.try_into().ok()? })
    }

    /// Whether it is what its key signs of these index bytes. Says nothing about trust.
    pub fn verifies(&self, index: &[u8]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        ed25519_dalek::VerifyingKey::from_bytes(&self.key)
            .is_ok_and(|key| key.verify_strict(&message(index), &signature).is_ok())
    }
}

/// Writes a new key: `NAME.key` (mode 0600) and `NAME.pub`, and gives the public one.
///
/// # Errors
/// One of the files is there already; nothing is written then.
pub fn keygen(name: &Path) -> Result<PublicKey, KeyError> {
    let key = SigningKey::ephemeral()?;
    let (secret_path, public_path) = (with_ending(name, ".key"), with_ending(name, ".pub"));
    if public_path.symlink_metadata().is_ok() {
        return Err(KeyError::Exists(public_path));
    }
    let seed = Zeroizing::new(key.0.to_bytes());
    let hex = Zeroizing::new(HEXLOWER.encode(seed.as_ref()));
    let text = Zeroizing::new(format!("{SECRET_PREFIX}{}\n", *hex));
    create(&secret_path, 0o600, text.as_bytes())?;
    if let Err(error) = create(&public_path, 0o644, format!("{}\n", key.public().to_text()).as_bytes()) {
        // A secret whose public half was never seen is of no use to anyone.
        let _ = std::fs::remove_file(&secret_path);
        return Err(error);
    }
    Ok(key.public())
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), KeyError> {
    let io = KeyError::io(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(&io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&io)
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn parse_hex(text: &str, prefix: &str) -> Option<[u8; 32]> {
    let hex = text.trim().strip_prefix(prefix)?;
    let mut bytes = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    // Into an array: a heap copy of a secret would stay behind unwiped.
    let hex = hex.as_bytes();
    HEXLOWER.decode_mut(hex, &mut bytes).ok()?;
    Some(bytes)
}

fn message(index: &[u8]) -> Vec<u8> {
    [CONTEXT, index].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_signs_and_its_public_file_checks() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("ci.release");
        let public = keygen(&name).unwrap();
        let (secret_path, public_path) =
            (dir.path().join("ci.release.key"), dir.path().join("ci.release.pub"));
        assert_eq!(secret_path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(PublicKey::read(&public_path).unwrap(), public);
        let key = SigningKey::read(&secret_path).unwrap();
        let signature = key.sign(b"index");
        assert!(public.verifies(b"index", &signature));
        assert!(!public.verifies(b"indey", &signature));
        assert!(!SigningKey::ephemeral().unwrap().public().verifies(b"index", &signature));
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("k");
        keygen(&name).unwrap();
        let before = std::fs::read(dir.path().join("k.key")).unwrap();
        assert!(matches!(keygen(&name), Err(KeyError::Exists(_))));
        std::fs::remove_file(dir.path().join("k.pub")).unwrap();
        assert!(matches!(keygen(&name), Err(KeyError::Exists(_))));
        assert_eq!(std::fs::read(dir.path().join("k.key")).unwrap(), before);
        assert!(!dir.path().join("k.pub").exists());
        std::fs::write(dir.path().join("j.pub"), "").unwrap();
        assert!(matches!(keygen(&dir.path().join("j")), Err(KeyError::Exists(_))));
        assert!(!dir.path().join("j.key").exists());
    }

    #[test]
    fn a_signing_key_prints_stars_and_no_error_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("k")).unwrap();
        let path = dir.path().join("k.key");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(format!("{:?}", SigningKey::read(&path).unwrap()), "SigningKey(***)");
        std::fs::write(&path, text.trim().to_uppercase()).unwrap();
        let error = SigningKey::read(&path).unwrap_err();
        assert!(matches!(error, KeyError::NotSigning(_)));
        assert!(!format!("{error} {error:?}").contains(&text.trim()[30..]));
    }

    #[test]
    fn a_signing_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("k")).unwrap();
        let path = dir.path().join("k.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SigningKey::read(&path).unwrap_err();
        assert!(matches!(error, KeyError::Exposed(_)) && error.to_string().contains("chmod 600"));
    }

    #[test]
    fn public_keys_are_read_with_and_without_prefix_and_nothing_else_is() {
        let key = SigningKey::from_seed(&[7; 32]).public();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(format!("{}\n", key.to_text()).parse::<PublicKey>().unwrap(), key);
        assert_eq!(serde_json::from_str::<PublicKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        let identity = format!("01{}", "00".repeat(31));
        let secret = format!("{SECRET_PREFIX}{key}");
        for bad in ["", "abc", &key.to_string()[1..], &format!("{key}0"), &identity, &secret] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
