use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastcdc::v2020::FastCDC;
use tempfile::NamedTempFile;
use zstd::bulk::Compressor;

use crate::index::{AVERAGE_CHUNK, Digest, INDEX_FORMAT, Index, IndexChunk, MAX_CHUNK, MIN_CHUNK};
use crate::key::Signature;
use crate::manifest::Manifest;
use crate::package::{HEADER, Layout, ZSTD_FLAG};

/// A build waits for this: 3 makes a library 5 % smaller and takes a third longer.
const LEVEL: i32 = 1;
/// Raw bytes that are cut, hashed and compressed at once: enough chunks to keep all cores busy.
const BATCH: usize = 8 * 1024 * 1024;

/// Takes a raw archive as it is written, and makes a package of it in one pass: cut, hash,
/// compress, store. Nothing is at the package's path before [`finish`](Self::finish).
pub(crate) struct PackageWriter {
    file: NamedTempFile,
    batch: Vec<u8>,
    compressors: Vec<Compressor<'static>>,
    whole: blake3::Hasher,
    size: u64,
    chunks: Vec<IndexChunk>,
    table: Vec<u8>,
    chunk_bytes: u64,
}

impl PackageWriter {
    /// A package that will be in the directory `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        let mut file = tempfile::Builder::new()
            .prefix(".package-")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(parent)?;
        file.write_all(&[0; HEADER])?;
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
        Ok(Self {
            file,
            batch: Vec::new(),
            compressors: (0..cores).map(|_| Compressor::new(LEVEL)).collect::<io::Result<_>>()?,
            whole: blake3::Hasher::new(),
            size: 0,
            chunks: Vec::new(),
            table: Vec::new(),
            chunk_bytes: 0,
        })
    }

    /// The end of the archive: the index of what was written.
    pub(crate) fn end(&mut self, manifest: &Manifest) -> io::Result<Index> {
        self.store(true)?;
        Ok(Index {
            format: INDEX_FORMAT,
            manifest: manifest.clone(),
            size: self.size,
            digest: Digest(*self.whole.finalize().as_bytes()),
            chunks: std::mem::take(&mut self.chunks),
        })
    }

    /// Completes the package and moves it to `path`. Gives its size in bytes.
    pub(crate) fn finish(
        mut self,
        index_bytes: &[u8],
        signatures: &[Signature],
        path: &Path,
    ) -> io::Result<u64> {
        let layout = Layout {
            chunk_bytes: self.chunk_bytes,
            chunks: (self.table.len() / 4) as u32,
            index_bytes: index_bytes.len() as u32,
            signatures: signatures.len() as u32,
        };
        let file = &mut self.file;
        file.write_all(&self.table)?;
        file.write_all(index_bytes)?;
        for signature in signatures {
            file.write_all(&signature.key)?;
            file.write_all(&signature.signature)?;
        }
        let size = file.stream_position()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&layout.to_bytes())?;
        self.file.persist(path).map_err(|error| error.error)?;
        Ok(size)
    }

    /// Stores the chunks of the batch. Before the end, the rest that could become a longer chunk
    /// stays, so the cuts do not depend on how the archive was written.
    fn store(&mut self, end: bool) -> io::Result<()> {
        let cuts = cut(&self.batch, end);
        let cut_bytes = cuts.last().map_or(0, |last| last.end);
        let whole = &mut self.whole;
        let batch = &self.batch;
        let stored = compress_all(batch, &cuts, &mut self.compressors, || {
            whole.update(&batch[..cut_bytes]);
        })?;
        for (range, (digest, frame)) in cuts.into_iter().zip(stored) {
            let raw = &batch[range];
            let (bytes, flag) = frame.as_deref().map_or((raw, 0), |frame| (frame, ZSTD_FLAG));
            self.file.write_all(bytes)?;
            self.chunk_bytes += bytes.len() as u64;
            self.table.extend((bytes.len() as u32 | flag).to_le_bytes());
            self.chunks.push(IndexChunk { digest, size: raw.len() as u32 });
        }
        self.size += cut_bytes as u64;
        self.batch.drain(..cut_bytes);
        Ok(())
    }
}

impl Write for PackageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH {
            self.store(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cut(raw: &[u8], end: bool) -> Vec<Range<usize>> {
    let chunker = FastCDC::new(raw, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK);
    let mut cuts = Vec::new();
    let mut start = 0;
    while start < raw.len() && (end || raw.len() - start >= MAX_CHUNK) {
        let (_, next) = chunker.cut(start, raw.len() - start);
        cuts.push(start..next);
        start = next;
    }
    cuts
}

type Stored = (Digest, Option<Vec<u8>>);

/// Digest and, where it is smaller, zstd frame of each range, on as many threads as there are
/// compressors, while `meanwhile` runs on this one.
fn compress_all(
    raw: &[u8],
    cuts: &[Range<usize>],
    compressors: &mut [Compressor<'static>],
    meanwhile: impl FnOnce(),
) -> io::Result<Vec<Stored>> {
    let next = AtomicUsize::new(0);
    let next = &next;
    let mut stored: Vec<(usize, Stored)> = std::thread::scope(|scope| {
        let threads: Vec<_> = compressors
            .iter_mut()
            .take(cuts.len())
            .map(|compressor| {
                scope.spawn(move || {
                    let mut done = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(range) = cuts.get(at) else { return Ok(done) };
                        done.push((at, compress(&raw[range.clone()], compressor)?));
                    }
                })
            })
            .collect();
        meanwhile();
        let mut all = Vec::with_capacity(cuts.len());
        for thread in threads {
            let done: io::Result<Vec<_>> =
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(done?);
        }
        Ok::<_, io::Error>(all)
    })?;
    stored.sort_unstable_by_key(|(at, _)| *at);
    Ok(stored.into_iter().map(|(_, stored)| stored).collect())
}

fn compress(raw: &[u8], compressor: &mut Compressor<'static>) -> io::Result<Stored> {
    let frame = compressor.compress(raw)?;
    Ok((Digest::of(raw), (frame.len() < raw.len()).then_some(frame)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that look random and are the same every time.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunks_of(raw: &[u8], write: usize) -> Vec<IndexChunk> {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PackageWriter::new(dir.path()).unwrap();
        raw.chunks(write).for_each(|part| writer.write_all(part).unwrap());
        let manifest = Manifest::plugin("x", semver::Version::new(1, 0, 0), "x.so");
        let index = writer.end(&manifest).unwrap();
        assert_eq!(index.digest, Digest::of(raw));
        assert_eq!(index.size, raw.len() as u64);
        index.chunks
    }

    #[test]
    fn an_inserted_byte_moves_few_chunks() {
        let before = noise(24 << 20, 1);
        let mut after = before.clone();
        after.insert(12 << 20, 7);
        let (before, after) = (chunks_of(&before, 1 << 20), chunks_of(&after, 1 << 20));
        let kept = after.iter().filter(|chunk| before.contains(chunk)).count();
        assert!(after.len() > 40 && kept + 4 >= after.len(), "{kept} of {} chunks kept", after.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn the_cuts_do_not_depend_on_how_the_archive_is_written(
            length in 0usize..20 << 20, write in 1usize..9 << 20, seed: u64,
        ) {
            let raw = noise(length, seed);
            prop_assert_eq!(chunks_of(&raw, write.max(4096)), chunks_of(&raw, 8192));
        }
    }
}
