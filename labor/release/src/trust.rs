use std::ops::Deref;

use overseer_protocol::ReleaseId;

use crate::index::Index;
use crate::key::{PublicKey, Signature};
use crate::manifest::{DEFAULT_ABI, HOST_TARGET, Kind};
use crate::refused::Refused;

/// Signatures that one release may have.
pub const MAX_SIGNATURES: usize = 16;

/// Whether a release without a trusted signature may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsigned {
    /// A signature by a trusted key is needed.
    #[default]
    Require,
    /// It may run without; a trusted key's signature must be right all the same.
    Allow,
}

/// Whom and what a labor accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Keys whose signature makes a release trusted.
    pub keys: Vec<PublicKey>,
    /// What happens without such a signature.
    pub unsigned: Unsigned,
    /// The triple of this machine.
    pub target: String,
    /// The major version of the plugin ABI spoken here.
    pub abi: u32,
    /// Largest raw archive, in bytes.
    pub max_size: u64,
    /// Most entries of an archive: files, directories and links.
    pub max_files: u64,
}

impl Trust {
    /// Trusts these keys, on this machine, up to 4 GiB and 100,000 files.
    pub fn keys(keys: Vec<PublicKey>) -> Self {
        Self {
            keys,
            unsigned: Unsigned::Require,
            target: HOST_TARGET.to_owned(),
            abi: DEFAULT_ABI,
            max_size: 4 << 30,
            max_files: 100_000,
        }
    }

    /// As [`Trust::keys`], and takes unsigned releases too.
    pub fn unsigned() -> Self {
        Self { unsigned: Unsigned::Allow, ..Self::keys(Vec::new()) }
    }
}

/// An index that passed [`verify`]: the only thing that can be unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    index: Index,
    id: ReleaseId,
    signed_by: Option<PublicKey>,
    pub(crate) max_files: u64,
}

impl Verified {
    /// The release's id.
    pub fn id(&self) -> ReleaseId {
        self.id
    }

    /// The trusted key that signed it; none where unsigned releases are allowed.
    pub fn signed_by(&self) -> Option<PublicKey> {
        self.signed_by
    }

    /// For reading a package without running it: every chunk is checked, nobody is trusted.
    pub(crate) fn unchecked(index: Index, id: ReleaseId, max_files: u64) -> Self {
        Self { index, id, signed_by: None, max_files }
    }
}

impl Deref for Verified {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

/// Checks signatures, then the index itself, then that it fits this machine.
///
/// # Errors
/// The first reason why this release may not run here.
pub fn verify(index: &[u8], signatures: &[Signature], trust: &Trust) -> Result<Verified, Refused> {
    if signatures.len() > MAX_SIGNATURES {
        return Err(Refused::TooManySignatures { count: signatures.len(), limit: MAX_SIGNATURES });
    }
    let id = ReleaseId::of_index(index);
    let signed_by = trusted_signature(index, signatures, trust)?;
    if signed_by.is_none() && trust.unsigned == Unsigned::Require {
        let name = id.short();
        if signatures.is_empty() {
            return Err(Refused::SignatureMissing { name });
        }
        let keys: Vec<_> = signatures.iter().map(|s| data_encoding::HEXLOWER.encode(&s.key)).collect();
        return Err(Refused::SignatureUnknown { name, keys: keys.join(", ") });
    }
    // Only now are the bytes read as anything.
    let index = Index::parse(index)?;
    let name = || index.manifest.name.clone();
    if index.manifest.target != trust.target {
        let (found, wanted) = (index.manifest.target.clone(), trust.target.clone());
        return Err(Refused::Target { name: name(), found, wanted });
    }
    if let Kind::Plugin { abi } = index.manifest.kind
        && abi != trust.abi
    {
        return Err(Refused::Abi { name: name(), found: abi, wanted: trust.abi });
    }
    if index.size > trust.max_size {
        return Err(Refused::TooLarge { name: name(), size: index.size, limit: trust.max_size });
    }
    Ok(Verified { index, id, signed_by, max_files: trust.max_files })
}

/// The first trusted key that signed; a wrong signature of a trusted key ends it.
fn trusted_signature(
    index: &[u8],
    signatures: &[Signature],
    trust: &Trust,
) -> Result<Option<PublicKey>, Refused> {
    let mut signed_by = None;
    for signature in signatures {
        let Some(key) = trust.keys.iter().find(|key| key.to_bytes() == signature.key) else { continue };
        if !key.verifies(index, signature) {
            return Err(Refused::SignatureBad { key: key.to_string() });
        }
        signed_by = signed_by.or(Some(*key));
    }
    Ok(signed_by)
}
