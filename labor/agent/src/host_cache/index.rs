//! Indexes of releases: what says which chunks a release has, and, by a lock, that it runs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use overseer_protocol::{ReleaseId, proto};
use overseer_release::MAX_INDEX;
use prost::Message;
use rustix::fs::{FlockOperation, flock};

use super::{HostCache, open_file, used};

/// Largest file of an index with its signatures, in bytes.
const MOST: u64 = MAX_INDEX as u64 + (64 << 10);
/// How often an index that goes while it is taken up is written anew.
const TRIES: usize = 4;

/// While this lives, on any thread, the chunks of a release are not evicted. The kernel ends it with
/// the process.
#[derive(Debug, Clone)]
pub(crate) struct InUse {
    _locked: Arc<File>,
}

impl HostCache {
    /// Whether no release was ever kept here, so that the first one must be fetched.
    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.indexes).map_or(true, |mut entries| entries.next().is_none())
    }

    /// What was signed of a release, not verified but for being its index; and the release is in use.
    pub(crate) fn index(&self, id: ReleaseId) -> Option<(proto::ReleaseIndexReply, InUse)> {
        let file = open_file(&self.index_path(id)).ok()?;
        let in_use = lock(file).ok()?;
        let reply = read(&in_use._locked, id)?;
        if let Ok(meta) = in_use._locked.metadata() {
            used(&in_use._locked, &meta);
        }
        Some((reply, in_use))
    }

    /// Keeps what was signed of a release, for the next agent that is to run it, and uses the release.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_index(&self, id: ReleaseId, reply: &proto::ReleaseIndexReply) -> io::Result<InUse> {
        let path = self.index_path(id);
        for _ in 0..TRIES {
            match self.index(id) {
                Some((found, in_use)) if found == *reply => return Ok(in_use),
                // Damaged, or signed by others. Who has it in use loses a lock, not the release.
                _ => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
            let aside = self.write_aside(&self.indexes, &reply.encode_to_vec())?;
            // Never over one that another agent has put there meanwhile, and locked.
            let linked = fs::hard_link(&aside, &path);
            let removed = fs::remove_file(&aside);
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => removed?,
            }
        }
        Err(io::Error::other("another agent removes what this one writes"))
    }

    pub(super) fn index_path(&self, id: ReleaseId) -> PathBuf {
        self.indexes.join(id.to_string())
    }
}

/// Who evicts holds the lock alone while it removes the file: then it is as good as gone.
fn lock(file: File) -> io::Result<InUse> {
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    if file.metadata()?.nlink() == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(InUse { _locked: Arc::new(file) })
}

/// What a file has, where it is the index of this release.
pub(super) fn read(file: &File, id: ReleaseId) -> Option<proto::ReleaseIndexReply> {
    let mut bytes = Vec::new();
    let from_start = file;
    from_start.take(MOST).read_to_end(&mut bytes).ok()?;
    let reply = proto::ReleaseIndexReply::decode(bytes.as_slice()).ok()?;
    (ReleaseId::of_index(&reply.index) == id).then_some(reply)
}
