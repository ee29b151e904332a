use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::manifest::Manifest;
use crate::refused::Refused;

/// Version of the index's form.
pub const INDEX_FORMAT: u32 = 1;
/// Largest index, in bytes; enough for the chunks of 20 GB.
pub const MAX_INDEX: usize = 16 * 1024 * 1024;
/// Smallest chunk but for the last one, in bytes.
pub const MIN_CHUNK: usize = 32 * 1024;
/// Chunks have about this size, in bytes: a change in one place costs two or three of them, and each
/// costs 90 bytes in the index.
pub const AVERAGE_CHUNK: usize = 128 * 1024;
/// Largest chunk, in bytes.
pub const MAX_CHUNK: usize = 1024 * 1024;

/// BLAKE3, 32 bytes; in JSON as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(de)?;
        let mut digest = [0; 32];
        if text.len() != 64 || HEXLOWER.decode_mut(text.as_bytes(), &mut digest).is_err() {
            return Err(de::Error::custom("expected a digest of 64 hexadecimal digits"));
        }
        Ok(Self(digest))
    }
}

/// One piece of the raw archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexChunk {
    /// Of the raw bytes.
    pub digest: Digest,
    /// Raw bytes, 1 to [`MAX_CHUNK`].
    pub size: u32,
}

/// What is signed, and what a release's id is the digest of: the manifest and the chunks of the
/// raw archive. As bytes: JSON in exactly one form, so that equal indexes have equal ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// [`INDEX_FORMAT`].
    pub format: u32,
    /// Equal to the `release.toml` in the archive.
    pub manifest: Manifest,
    /// Bytes of the raw archive: the sum of the chunks.
    pub size: u64,
    /// Of the raw archive.
    pub digest: Digest,
    /// In the archive's order.
    pub chunks: Vec<IndexChunk>,
}

impl Index {
    /// The one form of this index as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, integers and string-keyed maps: serde_json cannot fail on these.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads index bytes and checks that they are consistent. Trusts nobody and checks no
    /// signature: for that, see [`verify`](crate::verify).
    ///
    /// # Errors
    /// Too large, not JSON in the one form, of another format, or sizes that do not add up.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MAX_INDEX {
            return Err(Refused::IndexTooLarge { size: bytes.len() as u64 });
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |reason: String| Refused::IndexUnreadable { reason };
        let Format { format } =
            serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        if format != INDEX_FORMAT {
            return Err(Refused::Format { found: format });
        }
        let index: Self = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        if index.to_bytes() != bytes {
            return Err(unreadable("it is not written in its one form".into()));
        }
        let mut sum = 0u64;
        for (position, chunk) in index.chunks.iter().enumerate() {
            if chunk.size == 0 || chunk.size as usize > MAX_CHUNK {
                return Err(unreadable(format!(
                    "chunk {position} has {} bytes, allowed are 1 to {MAX_CHUNK}",
                    chunk.size
                )));
            }
            sum += u64::from(chunk.size);
        }
        if sum != index.size {
            return Err(unreadable(format!("its chunks have {sum} bytes together, not {}", index.size)));
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index {
            format: INDEX_FORMAT,
            manifest: Manifest::plugin("hello", semver::Version::new(1, 0, 0), "libhello.so"),
            size: 5,
            digest: Digest::of(b"hello"),
            chunks: vec![IndexChunk { digest: Digest::of(b"hello"), size: 5 }],
        }
    }

    #[test]
    fn an_index_has_one_form_only() {
        let bytes = index().to_bytes();
        assert_eq!(Index::parse(&bytes).unwrap(), index());
        let text = String::from_utf8(bytes).unwrap();
        for other in [
            format!("{text} "),
            text.replace(':', ": "),
            text.replace("\"size\":5,\"digest\"", "\"size\":5,\"extra\":1,\"digest\""),
            text.replace("\"abi\":1,", ""),
        ] {
            assert_ne!(other, text);
            let refused = Index::parse(other.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), "release.index_unreadable", "{other}");
        }
    }

    #[test]
    fn sizes_that_do_not_add_up_are_refused() {
        for change in [
            |index: &mut Index| index.size = 6,
            |index: &mut Index| index.chunks[0].size = 0,
            |index: &mut Index| {
                index.chunks[0].size = MAX_CHUNK as u32 + 1;
                index.size = MAX_CHUNK as u64 + 1;
            },
            |index: &mut Index| index.chunks.clear(),
        ] {
            let mut changed = index();
            change(&mut changed);
            let refused = Index::parse(&changed.to_bytes()).unwrap_err();
            assert_eq!(refused.code(), "release.index_unreadable", "{changed:?}");
        }
    }

    #[test]
    fn another_format_and_an_endless_index_are_refused_by_name() {
        let newer = Index { format: 2, ..index() };
        assert_eq!(Index::parse(&newer.to_bytes()), Err(Refused::Format { found: 2 }));
        let refused = Index::parse(&vec![b' '; MAX_INDEX + 1]).unwrap_err();
        assert_eq!(refused.code(), "release.index_too_large");
    }
}
