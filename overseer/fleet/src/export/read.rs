use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};

use super::form::{
    BLOB, END, ENTRY, FORMAT, HEAD_BYTES, Hashed, LAST, MAGIC, TAIL_BYTES, TASK_BLOB, runtime,
};
use super::write::exactly;
use super::{Amount, ExportError};
use crate::blobs::{Blobs, DirectoryBlobs};
use crate::data_dir::{self, DataDir};
use crate::store::{
    Durability, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, RedbStore, Store, Transaction,
};

type Packed = zstd::Decoder<'static, BufReader<Hashed<Take<File>>>>;

/// Makes a data directory out of an export, at a place where nothing or an empty directory is. The
/// whole file is checked before anything is written; the directory appears complete, or not at all.
/// `seen` is told how far it is. Blocks.
///
/// # Errors
/// Each [`ExportError`].
pub fn import(file: &Path, data: &Path, seen: impl Fn(Amount)) -> Result<Amount, ExportError> {
    let source = Source { path: file.to_owned() };
    let data = std::path::absolute(data).map_err(|e| ExportError::Io { path: data.to_owned(), source: e })?;
    must_be_empty(&data)?;
    let (digest, schema) = source.verify()?;
    let failed = |source: io::Error| ExportError::Io { path: data.clone(), source };
    let parent = data.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    // Beside its place, so that it can be renamed; removed when this fails.
    let half = tempfile::Builder::new()
        .prefix(".overseer-import-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(failed)?;
    let amount = source.unpack(half.path(), schema, digest, &seen)?;
    // As any server would: it raises an older schema, and finds out whether all of it can be opened.
    drop(DataDir::open(half.path())?);
    sync(half.path()).map_err(failed)?;
    // Takes the place of an empty directory, and of nothing else.
    fs::rename(half.path(), &data).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            ExportError::Exists { path: data.clone() }
        }
        _ => failed(error),
    })?;
    let _ = half.keep();
    sync(parent).map_err(failed)?;
    Ok(amount)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn must_be_empty(data: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::Io { path: data.to_owned(), source };
    match fs::read_dir(data) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(ExportError::Exists { path: data.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(ExportError::Exists { path: data.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

/// The file of an export.
struct Source {
    path: PathBuf,
}

impl Source {
    fn io(&self, source: io::Error) -> ExportError {
        ExportError::Io { path: self.path.clone(), source }
    }

    fn damaged(&self, reason: impl Into<String>) -> ExportError {
        ExportError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// A fault of what is inside, where the bytes are those that were written.
    fn inside(&self, error: io::Error) -> ExportError {
        self.damaged(format!("what is in it cannot be unpacked: {error}"))
    }

    /// Reads all of it; its digest and the schema of its entries.
    fn verify(&self) -> Result<(blake3::Hash, u64), ExportError> {
        let mut file = File::open(&self.path).map_err(|error| self.io(error))?;
        let length = file.metadata().map_err(|error| self.io(error))?.len();
        let mut head = [0; HEAD_BYTES];
        let not_one = || ExportError::NotOne { path: self.path.clone() };
        let cut = || ExportError::CutShort { path: self.path.clone() };
        let read = (&mut file).take(HEAD_BYTES as u64);
        let head_read = read_up_to(read, &mut head).map_err(|error| self.io(error))?;
        if head_read == 0 || !head[..head_read].starts_with(&MAGIC[..head_read.min(MAGIC.len())]) {
            return Err(not_one());
        }
        if head_read < HEAD_BYTES || length < (HEAD_BYTES + TAIL_BYTES) as u64 {
            return Err(cut());
        }
        let (format, schema) = head[MAGIC.len()..].split_at(4);
        let format = u32::from_le_bytes(format.try_into().map_err(|_| cut())?);
        let schema = u64::from_le_bytes(schema.try_into().map_err(|_| cut())?);
        file.seek(SeekFrom::Start(0)).map_err(|error| self.io(error))?;
        let mut hashed = Hashed::new((&mut file).take(length - 32));
        let mut mark = LastBytes::default();
        io::copy(&mut hashed, &mut mark).map_err(|error| self.io(error))?;
        let digest = hashed.hasher.finalize();
        let mut written = [0; 32];
        file.read_exact(&mut written).map_err(|error| self.io(error))?;
        // A newer format may end in another way; whoever knows the newer one says what is damaged.
        let (known_format, known_schema) = (FORMAT, crate::store::redb::newest_schema());
        if format > known_format || schema > known_schema {
            let path = self.path.clone();
            return Err(ExportError::Newer { path, format, schema, known_format, known_schema });
        }
        if mark.0 != END {
            return Err(cut());
        }
        if digest != blake3::Hash::from_bytes(written) {
            return Err(self.damaged("its bytes have another digest than the one at its end"));
        }
        if format == 0 || schema == 0 {
            return Err(self.damaged("its header says what no Overseer writes"));
        }
        Ok((digest, schema))
    }

    /// Writes store and blobs below `half`, and makes sure that what was read is what was verified.
    fn unpack(
        &self,
        half: &Path,
        schema: u64,
        digest: blake3::Hash,
        seen: &impl Fn(Amount),
    ) -> Result<Amount, ExportError> {
        let file = File::open(&self.path).map_err(|error| self.io(error))?;
        let length = file.metadata().map_err(|error| self.io(error))?.len();
        let mut hashed = Hashed::new(file.take(length.saturating_sub(32)));
        exactly(&mut hashed, HEAD_BYTES).map_err(|error| self.io(error))?;
        let packed =
            zstd::Decoder::with_buffer(BufReader::new(hashed)).map_err(|error| self.inside(error))?;
        let mut packed = packed.single_frame();
        let place = half.join("store.redb");
        // It is synced as a whole at the end.
        let store = RedbStore::open(&place, Durability::Ephemeral)?;
        store.declare_schema(schema)?;
        let open = |name| DirectoryBlobs::open_with(half.join(name), Durability::Fsync);
        let (task_blobs, blobs) = (open(data_dir::TASK_BLOBS)?, open(data_dir::BLOBS)?);
        let runtime = runtime().map_err(|error| self.io(error))?;
        let mut amount = Amount::default();
        let mut batch = Batch::default();
        loop {
            let mut record = [0];
            packed.read_exact(&mut record).map_err(|error| self.inside(error))?;
            match record[0] {
                ENTRY => {
                    let (key, value) = self.entry(&mut packed)?;
                    amount.entries += 1;
                    if let Some(full) = batch.add(key, value) {
                        runtime.block_on(store.transact(full))?;
                        amount.bytes = packed.get_ref().get_ref().bytes;
                        seen(amount);
                    }
                }
                kind @ (TASK_BLOB | BLOB) => {
                    let place = if kind == BLOB { &blobs } else { &task_blobs };
                    packed = self.blob(packed, place, &runtime)?;
                    amount.blobs += 1;
                    amount.bytes = packed.get_ref().get_ref().bytes;
                    seen(amount);
                }
                LAST => break,
                other => return Err(self.damaged(format!("it has a record of the unknown kind {other}"))),
            }
        }
        runtime.block_on(store.transact(batch.rest()))?;
        let counts = exactly(&mut packed, 16).map_err(|error| self.inside(error))?;
        if counts != [amount.entries.to_le_bytes(), amount.blobs.to_le_bytes()].concat() {
            return Err(self.damaged("it does not have as many entries and blobs as it says"));
        }
        let mut rest = packed.finish();
        io::copy(&mut rest, &mut io::sink()).map_err(|error| self.io(error))?;
        let hashed = rest.into_inner();
        if hashed.hasher.finalize() != digest {
            return Err(self.damaged("it has changed while it was read"));
        }
        amount.bytes = hashed.bytes + 32;
        drop(store);
        sync(&place).map_err(|source| ExportError::Io { path: place.clone(), source })?;
        Ok(amount)
    }

    fn entry(&self, packed: &mut Packed) -> Result<(String, Vec<u8>), ExportError> {
        let inside = |error| self.inside(error);
        let mut length = [0; 2];
        packed.read_exact(&mut length).map_err(inside)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length == 0 || length > MAX_KEY_BYTES {
            return Err(self.damaged(format!("it has a key of {length} bytes")));
        }
        let key = exactly(packed, length).map_err(inside)?;
        let key = String::from_utf8(key).map_err(|_| self.damaged("it has a key that is no text"))?;
        let mut length = [0; 4];
        packed.read_exact(&mut length).map_err(inside)?;
        let length = u32::from_le_bytes(length) as usize;
        if key.len() + length > MAX_TRANSACTION_BYTES {
            return Err(self.damaged(format!("the value of `{key}` has {length} bytes")));
        }
        Ok((key, exactly(packed, length).map_err(inside)?))
    }

    /// Takes the decoder and gives it back: the blobs read from it in their own time.
    fn blob(
        &self,
        mut packed: Packed,
        blobs: &DirectoryBlobs,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Packed, ExportError> {
        let digest = exactly(&mut packed, 32).map_err(|error| self.inside(error))?;
        let mut length = [0; 8];
        packed.read_exact(&mut length).map_err(|error| self.inside(error))?;
        let length = u64::from_le_bytes(length);
        let shared = Arc::new(Mutex::new(packed.take(length)));
        let put = runtime.block_on(blobs.put(Box::pin(Blocking(Arc::clone(&shared))), length));
        let info = match put {
            Err(crate::blobs::BlobError::Source { source, .. }) => return Err(self.inside(source)),
            other => other?,
        };
        let expected: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if info.size != length || info.digest != expected {
            return Err(self.damaged(format!("blob {expected} has other bytes")));
        }
        match Arc::try_unwrap(shared) {
            Ok(taken) => Ok(taken.into_inner().into_inner()),
            // `put` has ended, and its reader with it.
            Err(_) => Err(self.damaged("a blob is still being read")),
        }
    }
}

/// Entries of one transaction.
#[derive(Default)]
struct Batch {
    transaction: Transaction,
    bytes: usize,
}

impl Batch {
    /// What there was before, when this entry does not fit any more.
    fn add(&mut self, key: String, value: Vec<u8>) -> Option<Transaction> {
        let bytes = key.len() + value.len();
        let fits =
            self.transaction.operations.len() < MAX_OPERATIONS && self.bytes + bytes <= MAX_TRANSACTION_BYTES;
        let full = (!fits).then(|| self.rest());
        self.bytes += bytes;
        self.transaction = std::mem::take(&mut self.transaction).put(key, value);
        full
    }

    fn rest(&mut self) -> Transaction {
        self.bytes = 0;
        std::mem::take(&mut self.transaction)
    }
}

/// Reads without ever being pending: for a runtime of our own, on a thread that may block.
struct Blocking(Arc<Mutex<Take<Packed>>>);

impl AsyncRead for Blocking {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.lock().read(buffer.initialize_unfilled());
        Poll::Ready(read.map(|read| buffer.advance(read)))
    }
}

/// Keeps the last bytes that are written to it: as many as the mark of the end has.
#[derive(Default)]
struct LastBytes(Vec<u8>);

impl io::Write for LastBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let tail = &bytes[bytes.len().saturating_sub(END.len())..];
        self.0.extend_from_slice(tail);
        let surplus = self.0.len().saturating_sub(END.len());
        self.0.drain(..surplus);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_up_to(mut from: impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match from.read(&mut into[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
