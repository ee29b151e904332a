//! Releases on the agent's disk: `releases/ID/` is the unpacked tree, `releases/ID.index` what
//! was signed, so that it can be verified again under the trust of the day.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overseer_protocol::{ReleaseId, proto};
use prost::Message;
use rustix::fs::{FlockOperation, flock};

/// The directory of an agent, mode 0700.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    root: PathBuf,
    temporary: bool,
    /// Shared by the agents that use these releases, for as long as they live.
    lock: Arc<OwnedFd>,
}

/// Why the agent has no directory.
#[derive(Debug, thiserror::Error)]
#[error("the directory {path} cannot be used: {source}; name another one with --directory")]
pub(crate) struct DirectoryError {
    path: String,
    source: io::Error,
}

impl Directory {
    /// Makes it where it is not there; one of its own choice, removed at the end, when none is
    /// named.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self, DirectoryError> {
        let (root, temporary) = match named {
            Some(path) => (path.to_owned(), false),
            None => {
                let random = crate::backoff::system_random();
                (std::env::temp_dir().join(format!("overseer-labor-{random:016x}")), true)
            }
        };
        let error = |source| DirectoryError { path: root.display().to_string(), source };
        let mut builder = fs::DirBuilder::new();
        // A directory of our own choice must be new: others write to the temporary directory too.
        builder.mode(0o700).recursive(!temporary).create(&root).map_err(error)?;
        let root = root.canonicalize().map_err(error)?;
        let releases = root.join("releases");
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&releases).map_err(error)?;
        let lock = lock(&releases).map_err(error)?;
        Ok(Self { root, temporary, lock: Arc::new(lock) })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// Where a release is unpacked.
    pub(crate) fn release(&self, id: ReleaseId) -> PathBuf {
        self.releases().join(id.to_string())
    }

    fn index(&self, id: ReleaseId) -> PathBuf {
        self.releases().join(format!("{id}.index"))
    }

    /// Where it is, unless it goes with the agent.
    pub(crate) fn lasting(&self) -> Option<&Path> {
        (!self.temporary).then_some(&self.root)
    }

    /// Where the plugin host works.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Makes that directory. `another_user`: the host is not of the agent's user, and must get there and
    /// to its release, but to nothing else here.
    pub(crate) fn make_work(&self, another_user: bool) -> io::Result<()> {
        fs::create_dir_all(self.work())?;
        if another_user {
            // Who knows a name may pass; nobody else may list, and every other thing here is closed.
            for directory in [self.root.clone(), self.releases()] {
                fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
            }
        }
        Ok(())
    }

    /// Where log segments go.
    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool").join(std::process::id().to_string())
    }

    /// Whether no release is here, so that the first one must be fetched.
    pub(crate) fn has_no_release(&self) -> bool {
        fs::read_dir(self.releases()).map_or(true, |mut entries| entries.next().is_none())
    }

    /// What was signed of a release that is unpacked here.
    pub(crate) fn stored_index(&self, id: ReleaseId) -> Option<proto::ReleaseIndexReply> {
        if !self.release(id).is_dir() {
            return None;
        }
        let bytes = fs::read(self.index(id)).ok()?;
        let reply = proto::ReleaseIndexReply::decode(bytes.as_slice()).ok()?;
        (ReleaseId::of_index(&reply.index) == id).then_some(reply)
    }

    /// Keeps what was signed. Without it the release is fetched again, so a failure is no error.
    pub(crate) fn store_index(&self, id: ReleaseId, reply: &proto::ReleaseIndexReply) {
        let part = self.releases().join(format!("{id}.{}.part", std::process::id()));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&part).and_then(|mut file| file.write_all(&reply.encode_to_vec()));
        let stored = written.and_then(|()| fs::rename(&part, self.index(id)));
        if let Err(error) = stored {
            tracing::warn!("the index of {id} is not cached: {error}");
        }
    }

    /// Takes the releases that are not `kept` out of use, at once; what is returned is to be removed.
    /// None where other agents use the same directory.
    pub(crate) fn set_aside_others(&self, kept: &BTreeSet<ReleaseId>) -> Vec<PathBuf> {
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            // It may be gone with that.
            let _ = flock(&self.lock, FlockOperation::LockShared);
            return Vec::new();
        }
        let mut aside = Vec::new();
        for entry in fs::read_dir(self.releases()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<ReleaseId>().ok()) else { continue };
            // As what is half unpacked: what is left after a kill is removed with that.
            let to = self.releases().join(format!("{}{id}", overseer_release::PARTIAL_PREFIX));
            if !kept.contains(&id) && fs::rename(entry.path(), &to).is_ok() {
                let _ = fs::remove_file(self.index(id));
                aside.push(to);
            }
        }
        let _ = flock(&self.lock, FlockOperation::LockShared);
        aside
    }

    /// Removes what is of no use after the agent's end.
    pub(crate) fn clean(&self) {
        let _ = fs::remove_dir_all(self.spool());
        if self.temporary {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Takes its share of the directory. Who has it alone removes what a killed agent left half
/// unpacked.
fn lock(releases: &Path) -> io::Result<OwnedFd> {
    let directory = OwnedFd::from(fs::File::open(releases)?);
    if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        && let Err(error) = overseer_release::remove_partials(releases)
    {
        tracing::warn!("leftovers in {}: {error}", releases.display());
    }
    flock(&directory, FlockOperation::LockShared)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_agents_own_is_private_and_removed() {
        let directory = Directory::open(None).unwrap();
        let mode = fs::metadata(directory.root()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        directory.clean();
        assert!(!directory.root().exists());
    }

    #[test]
    fn another_user_passes_to_its_own_and_gets_to_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(&temp.path().join("labor"))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        directory.make_work(false).unwrap();
        assert_eq!((mode(directory.root()), mode(&directory.releases())), (0o700, 0o700));
        directory.make_work(true).unwrap();
        assert_eq!((mode(directory.root()), mode(&directory.releases())), (0o711, 0o711));
        let id = ReleaseId::of_index(b"index");
        directory.store_index(id, &proto::ReleaseIndexReply::default());
        assert_eq!(mode(&directory.index(id)), 0o600);
    }

    #[test]
    fn what_a_killed_agent_left_half_unpacked_is_removed_unless_another_one_unpacks() {
        let temp = tempfile::tempdir().unwrap();
        let first = Directory::open(Some(temp.path())).unwrap();
        let partial = first.releases().join(format!("{}x", overseer_release::PARTIAL_PREFIX));
        fs::create_dir(&partial).unwrap();
        let second = Directory::open(Some(temp.path())).unwrap();
        assert!(partial.exists());
        drop((first, second));
        Directory::open(Some(temp.path())).unwrap();
        assert!(!partial.exists());
    }

    #[test]
    fn old_releases_are_set_aside_by_one_who_has_the_directory_alone() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(temp.path())).unwrap();
        let [old, kept] = [b"old", b"new"].map(|index| ReleaseId::of_index(index));
        for id in [old, kept] {
            fs::create_dir(directory.release(id)).unwrap();
        }
        let kept_ids = BTreeSet::from([kept]);
        let other = Directory::open(Some(temp.path())).unwrap();
        assert!(directory.set_aside_others(&kept_ids).is_empty(), "another agent may use it");
        drop(other);
        let aside = directory.set_aside_others(&kept_ids);
        assert_eq!(aside.len(), 1);
        assert!(aside[0].is_dir() && !directory.release(old).exists() && directory.release(kept).is_dir());
    }

    #[test]
    fn a_damaged_index_is_as_good_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(Some(temp.path())).unwrap();
        let reply = proto::ReleaseIndexReply { index: b"index".to_vec().into(), signatures: vec![] };
        let id = ReleaseId::of_index(b"index");
        directory.store_index(id, &reply);
        assert!(directory.stored_index(id).is_none(), "not unpacked");
        fs::create_dir(directory.release(id)).unwrap();
        assert_eq!(directory.stored_index(id), Some(reply));
        fs::write(directory.index(id), b"xx").unwrap();
        assert!(directory.stored_index(id).is_none());
        let other = ReleaseId::of_index(b"other");
        fs::create_dir(directory.release(other)).unwrap();
        let wrong = proto::ReleaseIndexReply { index: b"wrong".to_vec().into(), signatures: vec![] };
        directory.store_index(other, &wrong);
        assert!(directory.stored_index(other).is_none());
    }

    #[test]
    fn a_file_in_the_way_is_said_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, b"").unwrap();
        let error = Directory::open(Some(&path.join("below"))).unwrap_err().to_string();
        assert!(error.contains("--directory") && error.contains("file/below"), "{error}");
    }
}
