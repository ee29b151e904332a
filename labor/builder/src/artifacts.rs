//! Which files a job gives, and where those of needed jobs are laid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
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

/// What the patterns of a job choose.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// Sorted by path.
    pub(crate) files: Vec<Chosen>,
    /// What was left out, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// The files that the patterns match. `tracked` are the files of the commit, for patterns that
/// take only what the build made.
///
/// # Errors
/// Inside: why the job fails, for the user.
pub(crate) fn choose(
    root: &Path,
    patterns: &[ArtifactPattern],
    tracked: &BTreeSet<PathBuf>,
) -> Result<Result<Choice, String>, BuildError> {
    let root = root.canonicalize().map_err(BuildError::io("cannot open", root))?;
    let mut chosen = BTreeMap::new();
    let mut warnings = BTreeSet::new();
    for pattern in patterns {
        let found = match matches(&root, pattern, tracked)? {
            Ok(found) => found,
            Err(message) => return Ok(Err(message)),
        };
        if found.files.is_empty() && !pattern.optional {
            return Ok(Err(match found.other {
                Some((path, kind)) => {
                    format!(
                        "the artifact {path:?} is {kind}, no regular file; write what it gives into a file"
                    )
                }
                None => nothing(&root, &pattern.glob),
            }));
        }
        chosen.extend(found.files.into_iter().map(|c| (c.path.clone(), c)));
        warnings.extend(found.unnamed.iter().map(|path| {
            format!("{path:?} is left out of the artifacts, for its name is not UTF-8; rename it")
        }));
        if chosen.len() > MAX_FILES {
            return Ok(Err(format!(
                "the patterns up to {:?} match more than {MAX_FILES} files; pack them into an archive",
                pattern.glob
            )));
        }
    }
    Ok(Ok(Choice { files: chosen.into_values().collect(), warnings: warnings.into_iter().collect() }))
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
        for old in found.files.iter().filter(|c| cache.iter().any(|dir| Path::new(&c.path).starts_with(dir)))
        {
            let path = root.join(&old.path);
            fs::remove_file(&path).map_err(BuildError::io("cannot remove", &path))?;
        }
    }
    Ok(())
}

/// What one pattern matches.
#[derive(Default)]
struct Matches {
    files: Vec<Chosen>,
    /// Files that would be artifacts of a detected job, if their names were UTF-8.
    unnamed: Vec<PathBuf>,
    /// The first that is no regular file, and what it is.
    other: Option<(PathBuf, &'static str)>,
}

fn matches(
    root: &Path,
    pattern: &ArtifactPattern,
    tracked: &BTreeSet<PathBuf>,
) -> Result<Result<Matches, String>, BuildError> {
    let glob = match rules::artifact_pattern(&pattern.glob) {
        Ok(glob) => glob,
        Err(broken) => return Err(BuildError::BadRequest(format!("{}; {}", broken.message, broken.help))),
    };
    let (base, depth) = literal_base(&pattern.glob);
    let start = root.join(&base);
    // A link on the way may lead out of the checkout.
    match start.canonicalize() {
        Err(_) => return Ok(Ok(unreal(root, &base))),
        Ok(real) if !real.starts_with(root) => return Ok(Err(leaves(&base))),
        Ok(_) => {}
    }
    let mut found = Matches::default();
    for entry in WalkDir::new(&start).max_depth(depth).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => continue,
            Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied) => {
                let path = e.path().unwrap_or(&start).strip_prefix(root).unwrap_or(&start).to_owned();
                return Ok(Err(format!("{path:?} may not be read; make it readable in the last step")));
            }
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
        match take(root, &entry, kind.is_symlink()) {
            Taken::File(file, mode) => {
                let made = mode == 0o755 && !kind.is_symlink() && !tracked.contains(relative);
                if pattern.made_executables && !made {
                    continue;
                }
                match relative.to_str() {
                    Some(path) => found.files.push(Chosen { path: path.to_owned(), file, mode }),
                    None if pattern.optional => found.unnamed.push(relative.to_owned()),
                    None => {
                        return Ok(Err(format!(
                            "the name of the artifact {relative:?} is not UTF-8; rename it or leave it out"
                        )));
                    }
                }
            }
            Taken::Leaves if pattern.made_executables => {}
            Taken::Leaves => return Ok(Err(leaves(&relative.to_string_lossy()))),
            Taken::Other(kind) => {
                found.other.get_or_insert((relative.to_owned(), kind));
            }
        }
        if found.files.len() > MAX_FILES {
            break;
        }
    }
    Ok(Ok(found))
}

/// Where nothing real is: a link that leads nowhere is named as such.
fn unreal(root: &Path, path: &str) -> Matches {
    let is_link = fs::symlink_metadata(root.join(path)).is_ok_and(|meta| meta.is_symlink());
    Matches { other: is_link.then(|| (path.into(), NOWHERE)), ..Matches::default() }
}

const NOWHERE: &str = "a link that leads nowhere";

enum Taken {
    /// What is read, and its mode.
    File(PathBuf, u32),
    /// A link that leads out of the checkout.
    Leaves,
    /// No regular file, but what this says.
    Other(&'static str),
}

fn take(root: &Path, entry: &walkdir::DirEntry, is_link: bool) -> Taken {
    let file = if is_link {
        match entry.path().canonicalize() {
            Ok(file) if file.starts_with(root) && !file.starts_with(root.join(".git")) => file,
            Ok(_) => return Taken::Leaves,
            Err(_) => return Taken::Other(NOWHERE),
        }
    } else {
        entry.path().to_owned()
    };
    match fs::metadata(&file) {
        Ok(meta) if meta.is_file() => {
            let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            Taken::File(file, mode)
        }
        Ok(meta) => Taken::Other(kind_of(meta.file_type())),
        Err(_) => Taken::Other(NOWHERE),
    }
}

/// What something is that is no regular file, in words.
pub(crate) fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
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
///
/// # Errors
/// Inside: why the job fails, for the user.
pub(crate) fn lay_needs(
    root: &Path,
    needs: &[NeedArtifacts],
    context: &CallContext,
    cancel: &Cancel,
) -> Result<Result<(), String>, BuildError> {
    check_needs(needs)?;
    if needs.is_empty() {
        return Ok(Ok(()));
    }
    let all = root.join("needs");
    // Whatever it is: files would be mixed, and a link would lead what is written here elsewhere.
    if let Ok(meta) = fs::symlink_metadata(&all) {
        let kind = if meta.is_file() { "a file" } else { kind_of(meta.file_type()) };
        return Ok(Err(format!(
            "the repository has {kind} \"needs\" of its own, where the artifacts of the jobs that this one \
             needs go; rename it in the repository, or leave `needs` out of the job"
        )));
    }
    let total = needs.iter().map(|need| need.files.len() as u64).sum();
    let mut done = 0;
    for need in needs {
        let directory = all.join(&need.job);
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
    Ok(Ok(()))
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

#[cfg(test)]
#[path = "artifacts_tests.rs"]
mod tests;
