//! What lies in a user's work tree, copied into a slot: tracked and untracked files, without
//! those that git ignores. Times are copied too, so that unchanged files are not rebuilt.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::BuildError;
use crate::cancel::Cancel;
use crate::git::Git;
use crate::repository::path_of;
use crate::slot::remove_all;

/// Makes the directory `to` what lies in `from`, but for the cached directories, which stay, and `.git`.
/// Says what could not be taken.
pub(crate) fn copy(
    from: &Path,
    to: &Path,
    cache: &[String],
    cancel: &Cancel,
) -> Result<Vec<String>, BuildError> {
    let mut warnings = Vec::new();
    let mut files = BTreeSet::new();
    list(from, Path::new(""), cancel, &mut files, &mut warnings)?;
    files.retain(|file| !cache.iter().any(|path| file.starts_with(path)));
    clear(to, &files, cache)?;
    for file in &files {
        cancel.check()?;
        if let Some(warning) = copy_one(from, to, file)? {
            warnings.push(warning);
        }
    }
    Ok(warnings)
}

/// The files of a work tree and of the submodules in it.
fn list(
    root: &Path,
    below: &Path,
    cancel: &Cancel,
    files: &mut BTreeSet<PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<(), BuildError> {
    let git = Git::new("ls-files", &root.join(below));
    let names = git.args(["-z", "--cached", "--others", "--exclude-standard"]).check(cancel)?.stdout;
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let path = below.join(path_of(name));
        let Ok(meta) = fs::symlink_metadata(root.join(&path)) else {
            // Tracked, and deleted in the work tree: the build is to see that.
            continue;
        };
        if !meta.is_dir() {
            files.insert(path);
        } else if name.ends_with(b"/") {
            warnings
                .push(format!("{path:?} is a repository of its own and is left out; add it as a submodule"));
        } else if root.join(&path).join(".git").exists() {
            list(root, &path, cancel, files, warnings)?;
        }
    }
    Ok(())
}

/// Removes what is neither in the list, nor leads to it, nor is cached.
fn clear(to: &Path, files: &BTreeSet<PathBuf>, cache: &[String]) -> Result<(), BuildError> {
    let leads = |path: &Path| {
        let next = files.range(path.to_owned()..).find(|file| file.as_path() != path);
        next.is_some_and(|file| file.starts_with(path))
            || cache.iter().any(|c| Path::new(c).starts_with(path))
    };
    let mut walk = WalkDir::new(to).min_depth(1).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(to).to_owned();
            BuildError::io("cannot read", &path)(e.into())
        })?;
        let Ok(path) = entry.path().strip_prefix(to) else { continue };
        let is_dir = entry.file_type().is_dir();
        if path == Path::new(".git") || cache.iter().any(|c| path == Path::new(c)) {
            if is_dir {
                walk.skip_current_dir();
            }
            continue;
        }
        let stays = if is_dir { leads(path) } else { files.contains(path) };
        if !stays {
            remove_all(entry.path())?;
            if is_dir {
                walk.skip_current_dir();
            }
        }
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path, file: &Path) -> Result<Option<String>, BuildError> {
    let (source, target) = (from.join(file), to.join(file));
    let meta = match fs::symlink_metadata(&source) {
        Ok(meta) => meta,
        // Deleted since it was listed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(BuildError::io("cannot read", &source)(e)),
    };
    let kind = meta.file_type();
    if !kind.is_file() && !kind.is_symlink() {
        return Ok(Some(format!("{file:?} is neither a file nor a link and is left out")));
    }
    let old = fs::symlink_metadata(&target).ok();
    if kind.is_file() && old.as_ref().is_some_and(|old| is_same(old, &meta)) {
        return Ok(None);
    }
    if old.is_some() {
        remove_all(&target)?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(BuildError::io("cannot make", parent))?;
    }
    if kind.is_symlink() {
        let link = fs::read_link(&source).map_err(BuildError::io("cannot read", &source))?;
        std::os::unix::fs::symlink(link, &target).map_err(BuildError::io("cannot write", &target))?;
        return Ok(None);
    }
    let copied = fs::copy(&source, &target).and_then(|_| {
        // Opened for writing although the source may be read-only.
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600))?;
        fs::File::options().write(true).open(&target)?.set_modified(meta.modified()?)?;
        fs::set_permissions(&target, meta.permissions())
    });
    copied.map_err(BuildError::io("cannot copy to", &target))?;
    Ok(None)
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    let of = |m: &Metadata| (m.is_file(), m.len(), m.mtime(), m.mtime_nsec(), m.permissions().mode());
    of(a) == of(b)
}
