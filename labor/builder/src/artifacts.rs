//! Which files a job gives, and where those of needed jobs are laid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use overseer_plugin::CallContext;
use walkdir::WalkDir;

use crate::BuildError;
use crate::api::{Artifact, NeedArtifacts};
use crate::build_file::{ArtifactPattern, rules};
use crate::cancel::Cancel;

/// Most files of one job.
const MAX_FILES: usize = 10_000;

/// A file that is to be uploaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// What is read: the file, or what a link in the checkout leads to.
    pub(crate) file: PathBuf,
    /// `0o755` or `0o644`.
    pub(crate) mode: u32,
}

/// The files that the patterns match, sorted by path. `tracked` are the files of the commit,
/// for patterns that take only what the build made.
///
/// # Errors
/// Inside: why the job fails, for the user.
pub(crate) fn choose(
    root: &Path,
    patterns: &[ArtifactPattern],
    tracked: &BTreeSet<PathBuf>,
) -> Result<Result<Vec<Chosen>, String>, BuildError> {
    let root = root.canonicalize().map_err(BuildError::io("cannot open", root))?;
    let mut chosen = BTreeMap::new();
    for pattern in patterns {
        let found = match matches(&root, pattern, tracked)? {
            Ok(found) => found,
            Err(message) => return Ok(Err(message)),
        };
        if found.is_empty() && !pattern.optional {
            return Ok(Err(nothing(&root, &pattern.glob)));
        }
        chosen.extend(found.into_iter().map(|c| (c.path.clone(), c)));
        if chosen.len() > MAX_FILES {
            return Ok(Err(format!(
                "the patterns up to {:?} match more than {MAX_FILES} files; pack them into an archive",
                pattern.glob
            )));
        }
    }
    Ok(Ok(chosen.into_values().collect()))
}

/// Removes from the cached directories what the patterns for made executables match: what an
/// earlier build left there is not what this one makes.
pub(crate) fn remove_stale(
    root: &Path,
    patterns: &[ArtifactPattern],
    cache: &[String],
) -> Result<(), BuildError> {
    let root = root.canonicalize().map_err(BuildError::io("cannot open", root))?;
    for pattern in patterns.iter().filter(|pattern| pattern.made_executables) {
        let Ok(found) = matches(&root, pattern, &BTreeSet::new())? else { continue };
        for old in found.iter().filter(|c| cache.iter().any(|dir| Path::new(&c.path).starts_with(dir))) {
            let path = root.join(&old.path);
            fs::remove_file(&path).map_err(BuildError::io("cannot remove", &path))?;
        }
    }
    Ok(())
}

fn matches(
    root: &Path,
    pattern: &ArtifactPattern,
    tracked: &BTreeSet<PathBuf>,
) -> Result<Result<Vec<Chosen>, String>, BuildError> {
    let glob = match rules::artifact_pattern(&pattern.glob) {
        Ok(glob) => glob,
        Err(broken) => return Err(BuildError::BadRequest(format!("{}; {}", broken.message, broken.help))),
    };
    let (base, depth) = literal_base(&pattern.glob);
    let start = root.join(&base);
    // A link on the way may lead out of the checkout.
    match start.canonicalize() {
        Err(_) => return Ok(Ok(vec![])),
        Ok(real) if !real.starts_with(root) => return Ok(Err(leaves(&base))),
        Ok(_) => {}
    }
    let mut found = Vec::new();
    for entry in WalkDir::new(&start).max_depth(depth).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => continue,
            Err(e) => {
                let path = e.path().unwrap_or(&start).to_owned();
                return Err(BuildError::io("cannot read", &path)(e.into()));
            }
        };
        let Ok(relative) = entry.path().strip_prefix(root) else { continue };
        let kind = entry.file_type();
        if relative.starts_with(".git") || kind.is_dir() || !glob.is_match(relative) {
            continue;
        }
        let Some(path) = relative.to_str() else {
            return Ok(Err(format!("the name of {relative:?} is not UTF-8; rename it or leave it out")));
        };
        match take(root, &entry, path, kind.is_symlink()) {
            Taken::File(chosen) => {
                let made = chosen.mode == 0o755 && !kind.is_symlink() && !tracked.contains(relative);
                if !pattern.made_executables || made {
                    found.push(chosen);
                }
            }
            Taken::Leaves if pattern.made_executables => {}
            Taken::Leaves => return Ok(Err(leaves(path))),
            Taken::Other => {}
        }
        if found.len() > MAX_FILES {
            break;
        }
    }
    Ok(Ok(found))
}

enum Taken {
    File(Chosen),
    /// A link that leads out of the checkout.
    Leaves,
    /// No regular file.
    Other,
}

fn take(root: &Path, entry: &walkdir::DirEntry, path: &str, is_link: bool) -> Taken {
    let file = if is_link {
        match entry.path().canonicalize() {
            Ok(file) if file.starts_with(root) && !file.starts_with(root.join(".git")) => file,
            Ok(_) => return Taken::Leaves,
            Err(_) => return Taken::Other,
        }
    } else {
        entry.path().to_owned()
    };
    match fs::metadata(&file) {
        Ok(meta) if meta.is_file() => {
            let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            Taken::File(Chosen { path: path.to_owned(), file, mode })
        }
        _ => Taken::Other,
    }
}

/// The directory or file that every match is in, and how deep below it a match can be: so that
/// a `target` of a hundred thousand files is not walked for one of them.
fn literal_base(glob: &str) -> (String, usize) {
    let parts: Vec<&str> = glob.split('/').collect();
    let is_literal = |part: &&str| !part.contains(['*', '?', '[', '{', '\\', ']', '}']);
    let literal = parts.iter().take_while(|part| is_literal(part)).count();
    let rest = &parts[literal..];
    // A brace may hold a `/`, which the parts do not show.
    let unbounded = rest.iter().any(|part| part.contains("**") || part.contains(['{', '[']));
    (parts[..literal].join("/"), if unbounded { usize::MAX } else { rest.len() })
}

fn nothing(root: &Path, glob: &str) -> String {
    if root.join(glob).is_dir() {
        return format!("the artifact {glob:?} is a directory; write \"{glob}/**\" for all files in it");
    }
    format!(
        "no file matches the artifact {glob:?}; patterns are relative to the root of the checkout, \
         `*` stays within a directory and `**` goes through them"
    )
}

fn leaves(path: &str) -> String {
    format!("the artifact {path:?} is a link out of the checkout; copy the file in instead")
}

/// Uploads files, in order.
pub(crate) fn upload(
    chosen: Vec<Chosen>,
    context: &CallContext,
    cancel: &Cancel,
) -> Result<Vec<Artifact>, BuildError> {
    let total = chosen.len() as u64;
    let mut artifacts = Vec::with_capacity(chosen.len());
    for (done, Chosen { path, file, mode }) in (0_u64..).zip(chosen) {
        cancel.check()?;
        context.progress(done, total, "artifacts");
        let blob = context.put_blob(&file).map_err(|error| BuildError::Blob { path: path.clone(), error })?;
        artifacts.push(Artifact { path, digest: blob.digest, size: blob.size, mode });
    }
    Ok(artifacts)
}

/// Lays the artifacts of needed jobs into `needs/JOB/` of the checkout.
pub(crate) fn lay_needs(
    root: &Path,
    needs: &[NeedArtifacts],
    context: &CallContext,
    cancel: &Cancel,
) -> Result<(), BuildError> {
    check_needs(needs)?;
    if needs.is_empty() {
        return Ok(());
    }
    let all = root.join("needs");
    // A link in the repository would lead what is written here elsewhere.
    if fs::symlink_metadata(&all).is_ok_and(|meta| !meta.is_dir()) {
        return Err(own_needs("needs"));
    }
    let total = needs.iter().map(|need| need.files.len() as u64).sum();
    let mut done = 0;
    for need in needs {
        let directory = all.join(&need.job);
        if fs::symlink_metadata(&directory).is_ok() {
            return Err(own_needs(&format!("needs/{}", need.job)));
        }
        fs::create_dir_all(&directory).map_err(BuildError::io("cannot make", &directory))?;
        for file in &need.files {
            cancel.check()?;
            context.progress(done, total, "needs");
            done += 1;
            let to = directory.join(&file.path);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(BuildError::io("cannot make", parent))?;
            }
            let name = || format!("{} of {}", file.path, need.job);
            let got = context
                .get_blob(&file.digest, &to)
                .map_err(|error| BuildError::Blob { path: name(), error })?;
            if got != file.size {
                let error = format!("it has {got} bytes, not {}; run the needed job again", file.size);
                return Err(BuildError::Blob { path: name(), error: error.into() });
            }
            let mode = if file.mode & 0o111 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))
                .map_err(BuildError::io("cannot set the mode of", &to))?;
        }
    }
    Ok(())
}

/// Paths of another labor: checked here as strictly as those of a build file.
fn check_needs(needs: &[NeedArtifacts]) -> Result<(), BuildError> {
    let mut jobs = BTreeSet::new();
    for need in needs {
        let job = &need.job;
        let is_name = !job.is_empty() && !job.contains(['/', '\0']) && job != "." && job != "..";
        if !is_name || !jobs.insert(job) {
            return Err(BuildError::BadRequest(format!("{job:?} cannot be the name of a needed job")));
        }
        let mut paths = BTreeSet::new();
        for file in &need.files {
            if let Err(broken) = rules::relative_path(&file.path) {
                return Err(BuildError::BadRequest(format!("artifact of {job}: {}", broken.message)));
            }
            if !paths.insert(&file.path) {
                return Err(BuildError::BadRequest(format!("artifact {:?} of {job} comes twice", file.path)));
            }
        }
    }
    Ok(())
}

fn own_needs(path: &str) -> BuildError {
    BuildError::BadRequest(format!(
        "the repository has a {path} of its own, where the artifacts of needed jobs go; rename it"
    ))
}

#[cfg(test)]
#[path = "artifacts_tests.rs"]
mod tests;
