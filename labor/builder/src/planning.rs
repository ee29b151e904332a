use overseer_plugin::CallContext;

use crate::BuildError;
use crate::api::{PlanOrigin, PlanReply, PlanReport, PlanRequest, Source};
use crate::artifacts::kind_of;
use crate::build_file::{BuildFile, FILE_NAME, MAX_FILE_BYTES};
use crate::cancel::Cancel;
use crate::detect::{KNOWN, Listing, READ, detect};
use crate::git::Objects;
use crate::plan::Plan;
use crate::repository::{Repository, check_revision, no_regular_build_file};
use crate::{cache_dir, mirror};

/// Finds a commit and its jobs.
///
/// # Errors
/// Faults of the request or the machinery. A bad build file is a [`PlanReply`].
pub fn plan(request: &PlanRequest, context: &CallContext) -> Result<PlanReply, BuildError> {
    let cancel = Cancel::of(context)?;
    let rev = request.rev.as_deref().unwrap_or("HEAD");
    check_revision(rev)?;
    let mut warnings = Vec::new();
    let (repository, expression) = match &request.source {
        Source::Path(path) => {
            let repository = Repository::at(path, &cancel)?;
            if let Some(root) = &repository.work_tree
                && path.canonicalize().is_ok_and(|path| path != *root)
            {
                warnings.push(format!(
                    "{path:?} is inside of the repository {root:?}, which is built as a whole"
                ));
            }
            (repository, rev.to_owned())
        }
        Source::Url(url) => {
            if request.worktree {
                return Err(BuildError::BadRequest(
                    "a URL has no work tree; leave --worktree out or give a path".into(),
                ));
            }
            let cache = cache_dir::choose(request.cache_dir.as_deref(), var, context.directory());
            let mirrored = mirror::fetch(url, rev, &cache, &cancel)?;
            (mirrored.repository, mirrored.expression)
        }
    };
    if request.worktree && request.rev.is_some() {
        return Err(BuildError::BadRequest(
            "a work tree is built as it lies there; leave out either --rev or --worktree".into(),
        ));
    }
    // The slowest question, asked beside the others.
    let (dirty, found) = std::thread::scope(|scope| {
        let dirty = scope.spawn(|| repository.is_dirty(&cancel));
        let found = find(&repository, &expression, rev, request.worktree, &cancel);
        let dirty = dirty.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (dirty, found)
    });
    let (commit, listing, build_file) = found?;
    let (from, file) = match build_file {
        Some(bytes) => match BuildFile::parse(&bytes, FILE_NAME) {
            Ok(file) => (PlanOrigin::File, file),
            Err(error) => return Ok(PlanReply::BadBuildFile(error)),
        },
        None => {
            let Some(detected) = detect(&listing) else {
                let what = format!("{} of {}", &commit.id[..10], repository.name);
                return Err(BuildError::NothingToBuild(what, KNOWN));
            };
            if !detected.also.is_empty() {
                let also: Vec<_> = detected.also.iter().map(ToString::to_string).collect();
                warnings.push(format!(
                    "built as {}; for {} too, write an {FILE_NAME}",
                    detected.kind,
                    also.join(" and ")
                ));
            }
            (PlanOrigin::Detected(detected.kind.to_string()), detected.file)
        }
    };
    Ok(PlanReply::Planned(PlanReport {
        short: commit.id[..10].to_owned(),
        commit: commit.id,
        tree: commit.tree,
        subject: commit.subject,
        dirty: dirty?,
        from,
        plan: Plan::of(&file),
        warnings,
    }))
}

type Root = (crate::repository::Commit, Listing, Option<Vec<u8>>);

fn find(
    repository: &Repository,
    expression: &str,
    rev: &str,
    worktree: bool,
    cancel: &Cancel,
) -> Result<Root, BuildError> {
    let mut objects = Objects::open(&repository.git_dir)?;
    let commit = repository.commit(&mut objects, expression, rev, cancel)?;
    let (listing, build_file) = if worktree {
        let Some(root) = &repository.work_tree else {
            return Err(BuildError::BadRequest(format!(
                "{} is a bare repository and has no work tree; leave --worktree out",
                repository.name
            )));
        };
        list_directory(root)?
    } else {
        repository.root(&mut objects, &commit)?
    };
    Ok((commit, listing, build_file))
}

/// The root of a work tree, as [`Repository::root`] gives that of a commit.
fn list_directory(root: &std::path::Path) -> Result<(Listing, Option<Vec<u8>>), BuildError> {
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(root).map_err(BuildError::io("cannot read", root))? {
        let entry = entry.map_err(BuildError::io("cannot read", root))?;
        let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
        if name == FILE_NAME && !kind.is_file() {
            let path = root.join(name).display().to_string();
            return Err(no_regular_build_file(&path, kind_of(kind)));
        }
        if kind.is_dir() {
            listing.directories.insert(name);
        } else if kind.is_file() {
            listing.files.insert(name);
        }
    }
    let read = |name: &str| {
        use std::io::Read as _;
        let path = root.join(name);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            // One byte more than allowed, so that the reader says so.
            .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(BuildError::io("cannot read", &path))?;
        Ok(bytes)
    };
    if listing.files.contains(FILE_NAME) {
        let build_file = read(FILE_NAME)?;
        return Ok((listing, Some(build_file)));
    }
    for name in READ.into_iter().filter(|name| listing.files.contains(*name)).collect::<Vec<_>>() {
        listing.contents.insert(name.to_owned(), read(name)?);
    }
    Ok((listing, None))
}

pub(crate) fn var(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
