//! Directories that are ours: real ones, of this user. Steps run beside them and may put
//! anything in their place, a link to somebody's home above all; what a link leads to is never
//! entered, cleaned or collected.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::BuildError;
use crate::slot::remove_all;

/// A directory that is held: whatever is put at its path, this stays the one that it was.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// While it is open, no other directory can get its number.
    handle: File,
    id: (u64, u64),
}

impl Place {
    /// The directory at this path. What else lies there is removed, and an empty one made.
    pub(crate) fn make(path: &Path) -> Result<Self, BuildError> {
        if !only_directory(path)? {
            fs::create_dir_all(path).map_err(BuildError::io("cannot make", path))?;
        }
        Self::open(path).map_err(BuildError::io("cannot open", path))
    }

    /// The directory at this path.
    ///
    /// # Errors
    /// Nothing is there, or no directory; a link is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let id = id(&handle.metadata()?);
        Ok(Self { path: path.to_owned(), handle, id })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path to it that leads nowhere else, for this process and for the working directory of
    /// one that it starts.
    pub(crate) fn held(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }

    /// Whether it still is at its path.
    pub(crate) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.is_dir() && id(&meta) == self.id)
    }

    /// # Errors
    /// Why the job fails, for the user, when it is not at its path any more.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.is_there() {
            return Ok(());
        }
        Err("the checkout is gone: a step has removed, moved or replaced the directory that steps begin in; \
             remove only what is in it, and work elsewhere in $TMPDIR"
            .to_owned())
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Whether a real directory is there; a link to one is none.
pub(crate) fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Whether a real directory is there, by no link below `root`.
pub(crate) fn is_directory_below(root: &Path, path: &str) -> bool {
    let mut at = root.to_owned();
    Path::new(path).components().all(|part| {
        at.push(part);
        is_directory(&at)
    })
}

/// Removes what is there, unless it is a real directory of this user; says whether it is one.
pub(crate) fn only_directory(path: &Path) -> Result<bool, BuildError> {
    // What cannot be looked at cannot be removed either; making it says why.
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(false) };
    if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() {
        return Ok(true);
    }
    remove_all(path)?;
    Ok(false)
}

/// Removes what is there, unless it is a real directory, whoever's: for those that builds share.
pub(crate) fn no_link(path: &Path) -> Result<(), BuildError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_dir() => remove_all(path),
        _ => Ok(()),
    }
}

/// Removes what is there, unless it is a regular file.
pub(crate) fn only_file(path: &Path) -> Result<(), BuildError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => remove_all(path),
        _ => Ok(()),
    }
}

/// Removes what is no directory on the way from `root` to a path below it.
pub(crate) fn only_directories_below(root: &Path, path: &str) -> Result<(), BuildError> {
    let mut at = root.to_owned();
    for part in Path::new(path).components() {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return remove_all(&at),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory with a file in it that must stay.
    fn victim() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("precious"), "x").unwrap();
        (dir, victim)
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_goes_and_what_it_leads_to_stays() {
        let (dir, victim) = victim();
        for target in [victim.as_path(), Path::new("nowhere")] {
            let path = dir.path().join("tree");
            symlink(target, &path).unwrap();
            let place = Place::make(&path).unwrap();
            assert!(place.is_there() && is_directory(&path));
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
            fs::remove_dir(&path).unwrap();
        }
        assert!(victim.join("precious").exists());
        fs::write(dir.path().join("tree"), "a file").unwrap();
        assert!(Place::make(&dir.path().join("tree")).unwrap().is_there());
    }

    #[test]
    fn a_directory_that_was_replaced_is_not_there_any_more() {
        let (dir, victim) = victim();
        let path = dir.path().join("tree");
        let place = Place::make(&path).unwrap();
        fs::write(path.join("mine"), "").unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        assert!(!place.is_there());
        symlink(&victim, &path).unwrap();
        assert!(!place.is_there());
        assert!(place.held().join("mine").exists());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(place.check().unwrap_err().contains("a step has"));
    }

    #[test]
    fn nothing_cached_is_found_through_a_link() {
        let (dir, victim) = victim();
        let root = dir.path().join("tree");
        fs::create_dir_all(root.join("real/deep")).unwrap();
        symlink(&victim, root.join("link")).unwrap();
        symlink(&victim, root.join("real/link")).unwrap();
        for (path, is_there) in
            [("real/deep", true), ("link", false), ("real/link", false), ("link/x", false)]
        {
            assert_eq!(is_directory_below(&root, path), is_there, "{path}");
            only_directories_below(&root, path).unwrap();
        }
        assert!(root.join("real/deep").exists() && victim.join("precious").exists());
        assert!(!root.join("link").exists() && !root.join("real/link").exists());
    }
}
