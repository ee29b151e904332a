//! What both directions agree on, and readers and writers that hash what passes.

use std::io::{self, Read, Write};

/// The first bytes of an export.
pub(super) const MAGIC: &[u8; 16] = b"overseer-export\n";
/// What comes before the digest: a file without it was cut short.
pub(super) const END: &[u8; 11] = b"export-end\n";
/// Form of the file.
pub(super) const FORMAT: u32 = 2;
/// Magic, format and schema.
pub(super) const HEAD_BYTES: usize = 16 + 4 + 8;
/// The end's mark and the digest.
pub(super) const TAIL_BYTES: usize = END.len() + 32;

pub(super) const ENTRY: u8 = 1;
pub(super) const TASK_BLOB: u8 = 2;
pub(super) const BLOB: u8 = 3;
pub(super) const LAST: u8 = 0;

/// Counts and hashes what is written or read through it.
pub(super) struct Hashed<T> {
    pub(super) inner: T,
    pub(super) hasher: blake3::Hasher,
    pub(super) bytes: u64,
}

impl<T> Hashed<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.passed(&buffer[..read]);
        Ok(read)
    }
}

/// A runtime for the few calls that are async.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
