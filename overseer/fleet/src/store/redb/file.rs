//! The file: made whole or not at all, locked, checked, opened again after a fault.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::redb::backends::FileBackend;
use ::redb::{BackendError, Builder, Database, DatabaseError, ReadableDatabase, StorageBackend};

use super::Durability;
use super::migrate::{self, Fault, Migration};
use super::tables::{self, State, Tables};
use crate::condition;
use crate::store::StoreError;

/// A process that is killed while it starts another one leaves its lock with that one, until that
/// one is on its way: whoever is started again at once waits for so long.
const LET_GO: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where a store lives and how it is opened, again and again.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) durability: Durability,
    pub(super) cache_bytes: usize,
    /// The steps to our schema.
    pub(super) migrations: &'static [Migration],
    /// Whether they are done; if not, an older store is opened as it is.
    pub(super) migrate: bool,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<super::tests::Faults>,
}

/// A database that is open, and its counters.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) state: State,
}

impl Place {
    /// Opens the file, or makes it. One that is in use is given a moment to be let go.
    pub(super) fn open(&self) -> Result<Opened, StoreError> {
        let end = Instant::now() + LET_GO;
        loop {
            match self.open_now() {
                Err(StoreError::InUse { .. }) if Instant::now() < end => thread::sleep(LOOK_AGAIN),
                opened => return opened,
            }
        }
    }

    fn open_now(&self) -> Result<Opened, StoreError> {
        match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => self.open_existing(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(self.damaged("it is a directory, not a file".into()))
            }
            Err(error) => Err(self.not_writable(&error)),
        }
    }

    /// Opens the file only if it is there: a store that was open must not be replaced by an
    /// empty one.
    pub(super) fn reopen(&self) -> Result<Opened, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        self.open_existing(file.map_err(|error| self.not_writable(&error))?)
    }

    /// Whether there is room for `bytes` more, with what a commit needs for itself. A full disk
    /// found here leaves the database open for readers; found by a commit it does not.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.check_room().map_err(|error| self.not_writable(&error))?;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let needed = Self::needed(bytes);
        let Some(free) = condition::free(directory).filter(|free| *free < needed) else { return Ok(()) };
        let place = condition::file_system(directory);
        let (place, free, needed) = (place.display(), condition::bytes(free), condition::bytes(needed));
        let reason = format!("{}: on {place} {free} are free, {needed} are needed", condition::FULL);
        Err(StoreError::NotWritable { path: self.name(), reason })
    }

    /// What must be free for a change of so many bytes.
    pub(super) fn needed(bytes: u64) -> u64 {
        // Pages are copied on write, and each change rewrites its way to the root.
        bytes.saturating_mul(4).saturating_add(1 << 20)
    }

    fn open_existing(&self, file: File) -> Result<Opened, StoreError> {
        let metadata = file.metadata().map_err(|error| self.not_writable(&error))?;
        if metadata.len() == 0 {
            return Err(self.damaged("the file is empty".into()));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            // It holds private keys.
            let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
        }
        let database = self.database(file)?;
        let read = database.begin_read().map_err(|error| self.fault(error.into()))?;
        let schema = tables::read_schema(&read).map_err(|error| self.fault(error))?;
        drop(read);
        let known = self.schema();
        if schema > known {
            return Err(StoreError::NewerSchema { path: self.name(), found: schema, known });
        }
        if self.migrate {
            migrate::run(&database, schema, self.migrations)
                .map_err(|(to, fault)| self.migration(to, fault))?;
        }
        let read = database.begin_read().map_err(|error| self.fault(error.into()))?;
        let state = tables::read_state(&read).map_err(|error| self.fault(error))?;
        drop(read);
        Ok(Opened { database, state })
    }

    /// The file appears under its name when it is complete, so a crash here leaves no half one
    /// and an empty file is known to be damaged.
    fn create(&self) -> Result<Opened, StoreError> {
        let failed = |error: &io::Error| self.not_writable(error);
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| failed(&error))?;
        let (file, temporary) = tempfile::Builder::new()
            .prefix(".store-new-")
            .tempfile_in(directory)
            .map_err(|error| failed(&error))?
            .into_parts();
        let database = self.database(file)?;
        let state = State::default();
        initialise(&database, state, self.schema()).map_err(|error| self.fault(error))?;
        match temporary.persist_noclobber(&self.path) {
            Ok(()) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                // Another process was faster: its file is the store.
                drop(database);
                return self.reopen();
            }
            Err(error) => return Err(failed(&error.error)),
        }
        if self.durability == Durability::Fsync {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| failed(&error))?;
        }
        Ok(Opened { database, state })
    }

    fn database(&self, file: File) -> Result<Database, StoreError> {
        let disk = Disk {
            file: FileBackend::new(file).map_err(|error| self.fault(error.into()))?,
            sync: self.durability == Durability::Fsync,
            #[cfg(test)]
            faults: self.faults.clone(),
        };
        // redb trusts a file that was closed well, and may panic when its bytes have changed
        // since: so all checksums are read first, and a panic counts as damage.
        let open = || {
            Builder::new()
                .set_cache_size(self.cache_bytes)
                .set_check_integrity_on_open(true)
                .create_with_backend(disk)
        };
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(database)) => Ok(database),
            Ok(Err(error)) => Err(self.open_fault(error)),
            Err(_) => Err(self.damaged("its pages do not fit together".into())),
        }
    }

    fn open_fault(&self, error: DatabaseError) -> StoreError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                StoreError::InUse { path: self.name() }
            }
            DatabaseError::UpgradeRequired(version) => {
                self.damaged(format!("it is a redb file of the old format {version}"))
            }
            other => self.fault(other.into()),
        }
    }

    /// The schema of what is made here.
    fn schema(&self) -> u64 {
        migrate::newest(self.migrations)
    }

    fn migration(&self, to: u64, fault: Fault) -> StoreError {
        match fault {
            Fault::File(error) => self.fault(error),
            Fault::Entry(reason) => StoreError::Migration { path: self.name(), to, reason },
        }
    }

    /// A fault of redb in our terms.
    pub(super) fn fault(&self, error: ::redb::Error) -> StoreError {
        use ::redb::Error;
        match error {
            Error::Io(error) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => self.damaged(error.to_string()),
                _ => self.not_writable(&error),
            },
            Error::PreviousIo => self.not_writable(&io::Error::other("an earlier write failed")),
            Error::DatabaseClosed => StoreError::Closed,
            other => self.damaged(other.to_string()),
        }
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn not_writable(&self, error: &io::Error) -> StoreError {
        StoreError::NotWritable { path: self.name(), reason: error.to_string() }
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.name(), reason }
    }
}

fn initialise(database: &Database, state: State, schema: u64) -> Result<(), ::redb::Error> {
    let write = database.begin_write()?;
    let mut tables = Tables::open(&write)?;
    tables.set_schema(schema)?;
    tables.set_state(state)?;
    drop(tables);
    write.commit()?;
    Ok(())
}

/// redb's file, without the waits for the disk where nobody needs them.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    sync: bool,
    #[cfg(test)]
    faults: std::sync::Arc<super::tests::Faults>,
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        #[cfg(test)]
        self.faults.check_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        #[cfg(test)]
        self.faults.check_sync()?;
        if self.sync { self.file.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        #[cfg(test)]
        self.faults.check_write()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
