use crate::index::{Digest, IndexChunk};
use crate::refused::Refused;

/// A chunk as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// `data` is a zstd frame, smaller than the raw bytes; else `data` is the raw bytes.
    pub zstd: bool,
    /// At most as long as the raw bytes.
    pub data: Vec<u8>,
}

/// Turns stored chunks into raw bytes that are what the index says. Reuses its buffer.
pub struct ChunkDecoder {
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
}

impl ChunkDecoder {
    /// A decoder with an empty buffer.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, raw: Vec::new() })
    }

    /// The raw bytes of the chunk at this position of the index. Writes no more than the declared
    /// size, whatever the frame says of itself, and checks the digest.
    ///
    /// # Errors
    /// The chunk is not the one that the index declares.
    pub fn decode(
        &mut self,
        position: usize,
        declared: &IndexChunk,
        chunk: StoredChunk,
    ) -> Result<&[u8], Refused> {
        let size = declared.size as usize;
        let wrong_size =
            |found: String| Refused::ChunkSize { chunk: position, declared: declared.size, found };
        let length = chunk.data.len();
        if chunk.zstd {
            if length >= size {
                return Err(wrong_size(format!("{length} compressed bytes")));
            }
            self.raw.resize(size, 0);
            let written = self
                .zstd
                .decompress_to_buffer(&chunk.data, self.raw.as_mut_slice())
                .map_err(|error| Refused::ChunkUnreadable { chunk: position, reason: error.to_string() })?;
            if written != size {
                return Err(wrong_size(format!("{written} bytes")));
            }
        } else {
            if length != size {
                return Err(wrong_size(format!("{length} bytes")));
            }
            self.raw = chunk.data;
        }
        let found = Digest::of(&self.raw);
        if found != declared.digest {
            return Err(Refused::ChunkDigest { chunk: position, declared: declared.digest, found });
        }
        Ok(&self.raw)
    }

    /// The bytes of the last [`decode`](Self::decode).
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(raw: &[u8]) -> IndexChunk {
        IndexChunk { digest: Digest::of(raw), size: raw.len() as u32 }
    }

    fn refused(declared: &IndexChunk, zstd: bool, data: Vec<u8>) -> &'static str {
        let mut decoder = ChunkDecoder::new().unwrap();
        decoder.decode(3, declared, StoredChunk { zstd, data }).unwrap_err().code()
    }

    #[test]
    fn a_bomb_is_stopped_at_the_declared_size() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let small = declared(&[0; 65536]);
        assert!(bomb.len() < 65536);
        assert_eq!(refused(&small, true, bomb), "release.chunk_unreadable");
    }

    #[test]
    fn every_difference_to_the_index_has_its_own_code() {
        let raw = vec![7; 1000];
        let frame = zstd::bulk::compress(&raw, 3).unwrap();
        let right = declared(&raw);
        let mut decoder = ChunkDecoder::new().unwrap();
        let stored = StoredChunk { zstd: true, data: frame.clone() };
        assert_eq!(decoder.decode(0, &right, stored).unwrap(), raw);
        assert_eq!(decoder.decode(0, &right, StoredChunk { zstd: false, data: raw.clone() }).unwrap(), raw);
        assert_eq!(refused(&right, false, raw[1..].to_vec()), "release.chunk_size");
        assert_eq!(refused(&right, true, raw.clone()), "release.chunk_size");
        assert_eq!(refused(&right, true, frame[1..].to_vec()), "release.chunk_unreadable");
        assert_eq!(refused(&right, false, vec![8; 1000]), "release.chunk_digest");
        let longer = IndexChunk { size: 1001, ..right };
        assert_eq!(refused(&longer, true, frame), "release.chunk_size");
    }
}
