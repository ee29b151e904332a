//! A repository whose objects lie on this machine: a user's own, or our mirror of a URL.

use std::path::{Path, PathBuf};

use crate::BuildError;
use crate::build_file::{FILE_NAME, MAX_FILE_BYTES};
use crate::cancel::Cancel;
use crate::detect::{Listing, READ};
use crate::git::{Found, Git, Objects, redact};

/// Where the objects and refs are.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    /// Its `.git`; for a linked work tree, that work tree's own.
    pub(crate) git_dir: PathBuf,
    /// The `.git` that all its work trees share.
    pub(crate) common_dir: PathBuf,
    /// Root of the work tree; absent in a bare repository.
    pub(crate) work_tree: Option<PathBuf>,
    /// As users know it: path or URL, without credentials.
    pub(crate) name: String,
}

/// A commit that was found, with what is needed to plan it.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) tree: String,
    pub(crate) subject: String,
}

impl Repository {
    /// Opens the repository that a path is in, as git finds it.
    pub(crate) fn at(path: &Path, cancel: &Cancel) -> Result<Self, BuildError> {
        if !path.is_absolute() {
            return Err(BuildError::BadRequest(format!("{path:?} is a relative path; give an absolute one")));
        }
        match std::fs::metadata(path) {
            Err(_) => return Err(BuildError::NoSuchPath(path.to_owned())),
            Ok(meta) if !meta.is_dir() => return Err(BuildError::NotADirectory(path.to_owned())),
            Ok(_) => {}
        }
        // One process for all; the git directory comes last, for it may have line ends in it.
        let questions =
            ["--is-bare-repository", "--is-inside-work-tree", "--show-cdup", "--absolute-git-dir"];
        let ended = Git::new("rev-parse", path).args(questions).run(cancel)?;
        if !ended.success() {
            if ended.said.contains("dubious ownership") {
                return Err(BuildError::OtherOwner(path.to_owned()));
            }
            if ended.said.contains("not a git repository") {
                return Err(BuildError::NotARepository(path.to_owned()));
            }
            return Err(ended.into_error());
        }
        let mut answers = ended.stdout.splitn(3, |b| *b == b'\n');
        let mut answer = || answers.next().unwrap_or_default();
        let (_bare, inside, rest) = (answer(), answer() == b"true", answer());
        // Outside of a work tree nothing is said of the way up to its root.
        let way_up = if inside { rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()) } else { 0 };
        let (up, git_dir) = rest.split_at(way_up);
        let git_dir = if inside { git_dir.get(1..).unwrap_or_default() } else { git_dir };
        let git_dir = path_of(git_dir.strip_suffix(b"\n").unwrap_or(git_dir));
        let work_tree = if inside {
            let root = path.join(path_of(up));
            Some(root.canonicalize().map_err(BuildError::io("cannot open", &root))?)
        } else {
            None
        };
        let common_dir = match std::fs::read(git_dir.join("commondir")) {
            Ok(text) => git_dir.join(path_of(text.trim_ascii_end())),
            Err(_) => git_dir.clone(),
        };
        let common_dir = common_dir.canonicalize().map_err(BuildError::io("cannot open", &common_dir))?;
        let name = work_tree.as_ref().unwrap_or(&git_dir).display().to_string();
        Ok(Self { git_dir, common_dir, work_tree, name })
    }

    /// Finds a commit by an expression; `name` is how the user calls it.
    pub(crate) fn commit(
        &self,
        objects: &mut Objects,
        expression: &str,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Commit, BuildError> {
        let (id, body) = match objects.get(&format!("{expression}^{{commit}}"), 16 * 1024 * 1024)? {
            Found::Object(id, body) => (id, body),
            Found::Ambiguous => return Err(BuildError::AmbiguousRevision(name.to_owned())),
            // Asked for as a commit, a short id of several counts as missing.
            Found::Missing => match objects.get(expression, 0)? {
                Found::Ambiguous => return Err(BuildError::AmbiguousRevision(name.to_owned())),
                _ => return Err(self.no_such_revision(name, cancel)?),
            },
            Found::TooLarge(size) => {
                return Err(self.broken(&format!("the commit {expression} has {size} bytes")));
            }
        };
        let text = String::from_utf8_lossy(&body);
        let (head, message) = text.split_once("\n\n").unwrap_or((&text, ""));
        let tree = head.lines().find_map(|line| line.strip_prefix("tree ")).unwrap_or_default();
        let subject = message.trim_start().lines().next().unwrap_or_default().chars().take(200);
        Ok(Commit { id, tree: tree.to_owned(), subject: subject.collect() })
    }

    /// The root of a commit: its listing, and its build file.
    pub(crate) fn root(
        &self,
        objects: &mut Objects,
        commit: &Commit,
    ) -> Result<(Listing, Option<Vec<u8>>), BuildError> {
        let tree = match objects.get(&commit.tree, 64 * 1024 * 1024)? {
            Found::Object(_, body) => body,
            _ => return Err(self.broken(&format!("the tree {} is missing", commit.tree))),
        };
        let mut listing = Listing::default();
        let mut has_build_file = false;
        for (mode, name) in tree_entries(&tree, commit.id.len() / 2) {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            match mode {
                b"40000" | b"120000" | b"160000" if name == FILE_NAME => {
                    let kind = match mode {
                        b"40000" => "a directory",
                        b"120000" => "a link",
                        _ => "a submodule",
                    };
                    return Err(no_regular_build_file(&format!("{FILE_NAME} of {}", commit.id), kind));
                }
                b"40000" => drop(listing.directories.insert(name.to_owned())),
                b"100644" | b"100755" | b"100664" => {
                    has_build_file |= name == FILE_NAME;
                    listing.files.insert(name.to_owned());
                }
                _ => {}
            }
        }
        if has_build_file {
            let file = match objects.get(&format!("{}:{FILE_NAME}", commit.id), MAX_FILE_BYTES)? {
                Found::Object(_, body) => body,
                // One byte more than allowed, so that the reader says so.
                Found::TooLarge(_) => vec![b'#'; MAX_FILE_BYTES + 1],
                _ => return Err(self.broken(&format!("{FILE_NAME} of {} is missing", commit.id))),
            };
            return Ok((listing, Some(file)));
        }
        for name in READ.into_iter().filter(|name| listing.files.contains(*name)) {
            if let Found::Object(_, body) = objects.get(&format!("{}:{name}", commit.id), MAX_FILE_BYTES)? {
                listing.contents.insert(name.to_owned(), body);
            }
        }
        Ok((listing, None))
    }

    /// Whether the work tree has changes or untracked files.
    pub(crate) fn is_dirty(&self, cancel: &Cancel) -> Result<bool, BuildError> {
        let Some(work_tree) = &self.work_tree else { return Ok(false) };
        let status = Git::new("status", work_tree).args(["--porcelain", "-z", "--untracked-files=normal"]);
        Ok(!status.check(cancel)?.stdout.is_empty())
    }

    fn no_such_revision(&self, rev: &str, cancel: &Cancel) -> Result<BuildError, BuildError> {
        let list = ["--count=8", "--sort=-creatordate", "--format=%(refname:short)"];
        let refs = ["refs/heads", "refs/tags", "refs/remotes"];
        let git = Git::new("for-each-ref", &self.git_dir).git_dir(&self.git_dir);
        let names = git.args(list.into_iter().chain(refs)).check(cancel)?.stdout;
        let names = String::from_utf8_lossy(&names).lines().collect::<Vec<_>>().join(", ");
        Ok(match (rev, names.as_str()) {
            ("HEAD", "") => BuildError::NoCommits(self.name.clone()),
            ("HEAD", _) => BuildError::NoSuchRevision {
                rev: rev.to_owned(),
                source_name: self.name.clone(),
                hint: format!("it points to a branch without commits; name one of: {names}"),
            },
            _ => BuildError::NoSuchRevision {
                rev: rev.to_owned(),
                source_name: self.name.clone(),
                hint: format!("give a commit (4 digits or more), HEAD~1, or one of: {names}"),
            },
        })
    }

    fn broken(&self, said: &str) -> BuildError {
        BuildError::Git { command: "cat-file".into(), said: format!("{} in {}", said, redact(&self.name)) }
    }
}

/// A build file that cannot be one.
pub(crate) fn no_regular_build_file(what: &str, kind: &str) -> BuildError {
    BuildError::BadRequest(format!("{what} is {kind}; make it a regular file"))
}

/// Whether a text may be asked of git as a revision at all.
pub(crate) fn check_revision(rev: &str) -> Result<(), BuildError> {
    if rev.is_empty() || rev.len() > 1024 || rev.starts_with('-') || rev.contains(|c: char| c.is_control()) {
        return Err(BuildError::BadRequest(format!(
            "{rev:?} is no revision; give a branch, a tag, a commit or an expression like HEAD~1"
        )));
    }
    Ok(())
}

/// Whether a text is the whole id of a commit.
pub(crate) fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Mode and name of a raw tree's entries; ids have `id` bytes.
fn tree_entries(mut tree: &[u8], id: usize) -> Vec<(&[u8], &[u8])> {
    let mut entries = Vec::new();
    while let Some(space) = tree.iter().position(|b| *b == b' ') {
        let Some(end) = tree.iter().position(|b| *b == 0) else { break };
        if end < space || tree.len() < end + 1 + id {
            break;
        }
        entries.push((&tree[..space], &tree[space + 1..end]));
        tree = &tree[end + 1 + id..];
    }
    entries
}
