use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::form::{BLOB, END, ENTRY, FORMAT, Hashed, LAST, MAGIC, TASK_BLOB, runtime};
use super::{Amount, ExportError};
use crate::blobs::{BlobError, Blobs, DirectoryBlobs};
use crate::data_dir::DataDir;
use crate::store::Entry;

/// Of zstd: fast, for the store's JSON is small work at any level.
const LEVEL: i32 = 3;

/// Writes an export to a new file of mode 0600, complete and on the disk before it has its name.
/// `seen` is told how far it is. Blocks.
///
/// # Errors
/// [`ExportError::Exists`], [`ExportError::Io`], and what store and blobs say.
pub fn export(
    data: &DataDir,
    file: &Path,
    with_blobs: bool,
    seen: impl Fn(Amount),
) -> Result<Amount, ExportError> {
    let failed = |source: io::Error| ExportError::Io { path: file.to_owned(), source };
    let exists = || ExportError::Exists { path: file.to_owned() };
    if fs::symlink_metadata(file).is_ok() {
        return Err(exists());
    }
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Made with mode 0600, and gone when this fails.
    let temporary =
        tempfile::Builder::new().prefix(".overseer-export-").tempfile_in(directory).map_err(failed)?;
    let mut amount = Amount::default();
    let (schema, _) = data.store().schema()?;
    let mut out = Hashed::new(BufWriter::new(temporary.as_file()));
    out.write_all(MAGIC).map_err(failed)?;
    out.write_all(&FORMAT.to_le_bytes()).map_err(failed)?;
    out.write_all(&schema.to_le_bytes()).map_err(failed)?;
    let mut packed = zstd::Encoder::new(out, LEVEL).map_err(failed)?;
    let written = data.store().each_entry(|entry| {
        if entry.lease.is_some() {
            amount.leased += 1;
            return Ok(());
        }
        amount.entries += 1;
        amount.bytes = packed.get_ref().bytes;
        if amount.entries % 1024 == 0 {
            seen(amount);
        }
        write_entry(&mut packed, &entry)
    })?;
    written.map_err(failed)?;
    if with_blobs {
        for (kind, blobs) in [(TASK_BLOB, data.task_blobs()), (BLOB, data.blobs())] {
            write_blobs(kind, &blobs, &mut packed, &mut amount, &failed, &seen)?;
        }
    }
    packed.write_all(&[LAST]).map_err(failed)?;
    packed.write_all(&amount.entries.to_le_bytes()).map_err(failed)?;
    packed.write_all(&amount.blobs.to_le_bytes()).map_err(failed)?;
    let mut out = packed.finish().map_err(failed)?;
    out.write_all(END).map_err(failed)?;
    let digest = out.hasher.finalize();
    out.write_all(digest.as_bytes()).map_err(failed)?;
    out.flush().map_err(failed)?;
    amount.bytes = out.bytes;
    drop(out);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist_noclobber(file).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => failed(error.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(amount)
}

fn write_entry(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let too_long = |_| io::Error::other("an entry is longer than any store takes");
    let key = u16::try_from(entry.key.len()).map_err(too_long)?;
    let value = u32::try_from(entry.value.len()).map_err(too_long)?;
    out.write_all(&[ENTRY])?;
    out.write_all(&key.to_le_bytes())?;
    out.write_all(entry.key.as_bytes())?;
    out.write_all(&value.to_le_bytes())?;
    out.write_all(&entry.value)
}

fn write_blobs(
    kind: u8,
    blobs: &DirectoryBlobs,
    out: &mut zstd::Encoder<'_, Hashed<impl Write>>,
    amount: &mut Amount,
    failed: &impl Fn(io::Error) -> ExportError,
    seen: &impl Fn(Amount),
) -> Result<(), ExportError> {
    let runtime = runtime().map_err(failed)?;
    let mut chunk = vec![0; 256 * 1024];
    for listed in runtime.block_on(blobs.list())? {
        let (info, mut reader) = match runtime.block_on(blobs.get(&listed.info.digest)) {
            // It was removed after the list was made, which is nothing to stop at.
            Err(BlobError::Missing(_)) => continue,
            other => other?,
        };
        let damaged = || ExportError::Blobs(BlobError::Damaged(info.digest.clone()));
        let digest = blake3::Hash::from_hex(&info.digest).map_err(|_| damaged())?;
        out.write_all(&[kind]).map_err(failed)?;
        out.write_all(digest.as_bytes()).map_err(failed)?;
        out.write_all(&info.size.to_le_bytes()).map_err(failed)?;
        let mut left = info.size;
        loop {
            // Its own reader checks the digest at the end.
            let read = match runtime.block_on(reader.read(&mut chunk)) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged()),
                Err(error) => return Err(failed(error)),
            };
            left = left.checked_sub(read as u64).ok_or_else(damaged)?;
            out.write_all(&chunk[..read]).map_err(failed)?;
            amount.bytes = out.get_ref().bytes;
            seen(*amount);
        }
        if left > 0 {
            return Err(damaged());
        }
        amount.blobs += 1;
    }
    Ok(())
}

/// Reads exactly so many bytes into a vector that grows with what is really there.
pub(super) fn exactly(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    from.take(bytes as u64).read_to_end(&mut read)?;
    if read.len() == bytes { Ok(read) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
