//! Kept checkouts: one directory for each source and job, so that unchanged files keep their
//! times, cached directories their contents, and compilers their absolute paths.
//!
//! ```text
//! work/KEY.lock   held while a job uses the slot
//! work/KEY/tree   the checkout, with the cached directories in it
//! work/KEY/index  git's index of it, out of reach of the steps' own git commands
//! work/KEY/tmp    TMPDIR of the steps
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::BuildError;
use crate::locks::Lock;
use crate::place::{no_link, only_directory, only_file};

/// Most slots that are kept; then those go that were not used for the longest time.
const MAX_SLOTS: usize = 64;

/// A place for one job to run in.
#[derive(Debug)]
pub(crate) struct Slot {
    root: PathBuf,
    /// Absent for a slot of one job only, which is removed with this.
    lock: Option<Lock>,
}

impl Slot {
    /// The kept slot of this key; `None` when another job uses it now.
    pub(crate) fn kept(cache_dir: &Path, key: &str) -> Result<Option<Self>, BuildError> {
        let work = cache_dir.join("work");
        no_link(&work)?;
        let Some(lock) = Lock::try_take(&work.join(format!("{key}.lock")))? else { return Ok(None) };
        lock.touch();
        let root = work.join(key);
        if !only_directory(&root)? {
            evict(&work, MAX_SLOTS);
            fs::create_dir_all(&root).map_err(BuildError::io("cannot make", &root))?;
        }
        let slot = Self { root, lock: Some(lock) };
        // The steps of earlier builds could write here.
        only_file(&slot.index())?;
        only_directory(&slot.modules())?;
        Ok(Some(slot))
    }

    /// A slot that ends with the job.
    pub(crate) fn passing(root: PathBuf) -> Result<Self, BuildError> {
        remove_all(&root)?;
        fs::create_dir_all(&root).map_err(BuildError::io("cannot make", &root))?;
        Ok(Self { root, lock: None })
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Where submodules wait while `.git` is made anew.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("modules")
    }

    /// An empty directory for temporary files.
    pub(crate) fn fresh_tmp(&self) -> Result<PathBuf, BuildError> {
        let tmp = self.root.join("tmp");
        remove_all(&tmp)?;
        fs::create_dir(&tmp).map_err(BuildError::io("cannot make", &tmp))?;
        Ok(tmp)
    }

    /// Removes everything that is in it.
    pub(crate) fn empty(&self) -> Result<(), BuildError> {
        remove_all(&self.root)?;
        fs::create_dir_all(&self.root).map_err(BuildError::io("cannot make", &self.root))
    }

    /// Whether the next build finds what this one leaves.
    pub(crate) fn is_kept(&self) -> bool {
        self.lock.is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.lock.is_none() {
            // The agent removes the directory around it in any case.
            let _ = remove_all(&self.root);
        }
    }
}

/// Removes a file or a directory, with directories that may not be written into, as Go's
/// module cache makes them. What is not there is fine.
pub(crate) fn remove_all(path: &Path) -> Result<(), BuildError> {
    let fail = || BuildError::io("cannot remove", path);
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail()(e)),
    };
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(fail());
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            for entry in walkdir::WalkDir::new(path).into_iter().filter_map(Result::ok) {
                if entry.file_type().is_dir() {
                    let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
                }
            }
            fs::remove_dir_all(path).map_err(fail())
        }
        result => result.map_err(fail()),
    }
}

/// Makes room for one more slot. What cannot be removed now is removed another time.
fn evict(work: &Path, most: usize) {
    let Ok(entries) = fs::read_dir(work) else { return };
    let mut locks: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "lock"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    locks.sort();
    let excess = locks.len().saturating_sub(most);
    for (_, path) in locks.into_iter().take(excess) {
        let Ok(Some(_lock)) = Lock::try_take(&path) else { continue };
        if remove_all(&path.with_extension("")).is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_one_jobs_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::kept(dir.path(), "a").unwrap().unwrap();
        assert!(Slot::kept(dir.path(), "a").unwrap().is_none());
        assert!(Slot::kept(dir.path(), "b").unwrap().is_some());
        fs::write(slot.root.join("x"), "").unwrap();
        drop(slot);
        let again = Slot::kept(dir.path(), "a").unwrap().unwrap();
        assert!(again.root.join("x").exists());
    }

    #[test]
    fn the_longest_unused_slots_go_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let used = Slot::kept(dir.path(), "k0").unwrap().unwrap();
        for i in 0..5 {
            drop(Slot::kept(dir.path(), &format!("k{i}")).unwrap());
            let lock =
                fs::File::options().write(true).open(dir.path().join(format!("work/k{i}.lock"))).unwrap();
            lock.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(i)).unwrap();
        }
        evict(&dir.path().join("work"), 2);
        let there = |i: u32| dir.path().join(format!("work/k{i}")).exists();
        assert_eq!([0, 1, 2, 3, 4].map(there), [true, false, false, true, true]);
        drop(used);
    }

    #[test]
    fn a_passing_slot_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::passing(dir.path().join("s")).unwrap();
        fs::write(slot.root.join("x"), "").unwrap();
        drop(slot);
        assert!(!dir.path().join("s").exists());
    }
}
