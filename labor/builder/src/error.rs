use std::io;
use std::path::{Path, PathBuf};

use overseer_plugin::PluginError;

/// A fault of the machinery, not of the commit: a job that fails is a report instead.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The call was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// There is no git program.
    #[error("git cannot be started ({0}); install git on this labor and put it on its PATH")]
    NoGit(io::Error),
    /// Nothing lies there.
    #[error("there is nothing at {0:?}; give the path of a git repository on this machine, or a git URL")]
    NoSuchPath(PathBuf),
    /// A file.
    #[error("{0:?} is not a directory; give the directory of a git repository")]
    NotADirectory(PathBuf),
    /// A directory without git.
    #[error("{0:?} is not in a git repository; run `git init` and commit there, or give another path")]
    NotARepository(PathBuf),
    /// Somebody else's repository.
    #[error(
        "{0:?} belongs to another user, so git does not read it; if you trust it: \
         git config --global --add safe.directory {0:?}"
    )]
    OtherOwner(PathBuf),
    /// A repository without commits.
    #[error("{0} has no commits yet; commit something first")]
    NoCommits(String),
    /// The revision cannot be found.
    #[error("there is no revision {rev:?} in {source_name}; {hint}")]
    NoSuchRevision {
        /// As asked for.
        rev: String,
        /// Path or URL.
        source_name: String,
        /// What there is.
        hint: String,
    },
    /// Several commits begin so.
    #[error("{0:?} is the beginning of several commits; give more digits")]
    AmbiguousRevision(String),
    /// A remote repository cannot be read.
    #[error(
        "{url} cannot be fetched; check the address, the network and the labor's access to it. git says: {said}"
    )]
    Fetch {
        /// Without credentials.
        url: String,
        /// Git's own words.
        said: String,
    },
    /// Nobody answers at the address of a remote repository.
    #[error(
        "{url} cannot be fetched, for nobody answers there; try again when network and server are up. git says: {said}"
    )]
    Unreachable {
        /// Without credentials.
        url: String,
        /// Git's own words.
        said: String,
    },
    /// A submodule cannot be had.
    #[error("the submodules cannot be checked out; check their addresses in .gitmodules. git says: {0}")]
    Submodules(String),
    /// Git failed in another way.
    #[error("`git {command}` failed; check the repository with `git fsck`. git says: {said}")]
    Git {
        /// Its subcommand.
        command: String,
        /// Its own words.
        said: String,
    },
    /// Neither a build file nor anything known.
    #[error(
        "nothing says how to build {0}: it has no .overseer.toml and none of {1}; \
         write an .overseer.toml with [jobs.build] and steps = [\"…\"]"
    )]
    NothingToBuild(String, &'static str),
    /// The file system refused.
    #[error("{what} {path:?}: {error}; {hint}", hint = io_hint(error))]
    Io {
        /// What was tried, such as `cannot write`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The agent could not move an artifact.
    #[error("artifact {path}: {error}")]
    Blob {
        /// Its path in the checkout.
        path: String,
        /// What the agent says.
        error: PluginError,
    },
}

impl BuildError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }

    /// Whether the machine or the network failed, not what was asked for: the same request may
    /// do when that is mended.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::NoGit(_) | Self::Unreachable { .. } | Self::Io { .. } | Self::Blob { .. })
    }
}

/// What was asked for wrongly is a bad payload. For a fault the kind is `NoMethod`, as a labor
/// without git or network has no such method: callers read `Failed` as the user's mistake too.
impl From<BuildError> for PluginError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Cancelled => Self::cancelled(),
            error if error.is_fault() => Self::no_method(error.to_string()),
            error => Self::bad_payload(error.to_string()),
        }
    }
}

fn io_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on that disk",
        io::ErrorKind::PermissionDenied => "give the labor's user access to it",
        io::ErrorKind::ReadOnlyFilesystem => "set OVERSEER_CACHE to a directory that can be written",
        _ => "check that directory on the labor",
    }
}

#[cfg(test)]
mod tests {
    use overseer_plugin::ErrorKind;

    use super::*;

    #[test]
    fn callers_can_tell_whose_mistake_it_is() {
        let kind = |error: BuildError| PluginError::from(error).kind;
        assert_eq!(kind(BuildError::NoGit(io::ErrorKind::NotFound.into())), ErrorKind::NoMethod);
        let full = BuildError::io("cannot write", "/x".as_ref())(io::ErrorKind::StorageFull.into());
        assert_eq!(kind(full), ErrorKind::NoMethod);
        assert_eq!(kind(BuildError::NoSuchPath("/x".into())), ErrorKind::BadPayload);
        assert_eq!(kind(BuildError::NoCommits("x".into())), ErrorKind::BadPayload);
        assert_eq!(kind(BuildError::Cancelled), ErrorKind::Cancelled);
    }
}
