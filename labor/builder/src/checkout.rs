//! A commit's files in a slot: exactly those, whatever an earlier job left there.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::BuildError;
use crate::cancel::Cancel;
use crate::git::{Ended, Git};
use crate::place::{Place, is_directory, only_directories_below, only_directory};
use crate::repository::{Repository, path_of};
use crate::slot::{Slot, remove_all};

/// What is checked out, and what of the earlier checkout stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkout<'a> {
    pub(crate) repository: &'a Repository,
    /// The whole id of the commit.
    pub(crate) commit: &'a str,
    /// Directories that stay as they are, relative to the root.
    pub(crate) cache: &'a [String],
    /// The repository is the user's own and on this machine.
    pub(crate) is_local: bool,
}

impl Checkout<'_> {
    /// Makes the slot's tree the commit. Files that did not change keep their times. A tree
    /// that cannot be brought there is made anew, without its caches.
    pub(crate) fn make(&self, slot: &Slot, cancel: &Cancel) -> Result<Place, BuildError> {
        let had_tree = only_directory(&slot.tree())?;
        match self.update(slot, had_tree, cancel) {
            Err(BuildError::Cancelled) => Err(BuildError::Cancelled),
            Err(_) if had_tree => {
                slot.empty()?;
                self.update(slot, false, cancel)
            }
            result => result,
        }
    }

    fn update(&self, slot: &Slot, had_tree: bool, cancel: &Cancel) -> Result<Place, BuildError> {
        let tree = self.place(slot)?;
        self.make_git_dir(slot, &tree, cancel)?;
        // Left by a process that was killed; the slot's lock says that nobody writes it now.
        remove_all(&slot.index().with_extension("lock"))?;
        self.git("read-tree", slot, &tree).args(["--reset", "-u", self.commit]).check(cancel)?;
        if had_tree {
            let keep = self.cache.iter().map(|path| format!("--exclude=/{path}"));
            let args = ["-ffdxq".to_owned()].into_iter().chain(keep);
            self.git("clean", slot, &tree).args(args).check(cancel)?;
        }
        self.give_index(slot, &tree)?;
        if fs::symlink_metadata(tree.path().join(".gitmodules")).is_ok_and(|meta| meta.is_file()) {
            self.submodules(&tree, had_tree, cancel)?;
        }
        Ok(tree)
    }

    /// The slot's tree, with no link in the place of a cached directory.
    pub(crate) fn place(&self, slot: &Slot) -> Result<Place, BuildError> {
        let tree = Place::make(&slot.tree())?;
        self.cache.iter().try_for_each(|path| only_directories_below(tree.path(), path))?;
        Ok(tree)
    }

    /// Makes `.git` anew: the steps find a repository of their own with the commit, tags and
    /// branches, and what an earlier job did to its settings, hooks and refs is gone. Objects
    /// are read from the source and never written there.
    pub(crate) fn make_git_dir(&self, slot: &Slot, tree: &Place, cancel: &Cancel) -> Result<(), BuildError> {
        let git = tree.path().join(".git");
        let modules = git.join("modules");
        if only_directory(&git)? && is_directory(&modules) && !has_links(&modules) {
            remove_all(&slot.modules())?;
            fs::rename(&modules, slot.modules()).map_err(BuildError::io("cannot move", &modules))?;
        }
        remove_all(&git)?;
        for directory in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
            let directory = git.join(directory);
            fs::create_dir_all(&directory).map_err(BuildError::io("cannot make", &directory))?;
        }
        if is_directory(&slot.modules()) {
            fs::rename(slot.modules(), &modules).map_err(BuildError::io("cannot move", &modules))?;
        }
        let write = |name: &str, bytes: &[u8]| {
            let path = git.join(name);
            fs::write(&path, bytes).map_err(BuildError::io("cannot write", &path))
        };
        write("HEAD", format!("{}\n", self.commit).as_bytes())?;
        write("config", self.config().as_bytes())?;
        write("objects/info/alternates", &alternates(&self.repository.common_dir.join("objects")))?;
        let shallow = self.repository.common_dir.join("shallow");
        if let Ok(bytes) = fs::read(&shallow) {
            write("shallow", &bytes)?;
        }
        write("packed-refs", self.refs(cancel)?.as_bytes())
    }

    /// The steps' git commands get a copy of the index, so that they cannot spoil ours.
    pub(crate) fn give_index(&self, slot: &Slot, tree: &Place) -> Result<(), BuildError> {
        let to = tree.path().join(".git/index");
        fs::copy(slot.index(), &to).map(drop).map_err(BuildError::io("cannot write", &to))
    }

    /// Git on the slot's tree, by our index.
    pub(crate) fn git(&self, name: &str, slot: &Slot, tree: &Place) -> Git {
        Git::on(name, tree, &slot.index())
    }

    fn config(&self) -> String {
        let sha256 = self.commit.len() == 64;
        let mut config = format!(
            "[core]\n\trepositoryformatversion = {}\n\tfilemode = true\n\tbare = false\n\
             \tlogallrefupdates = false\n",
            u8::from(sha256)
        );
        if sha256 {
            config.push_str("[extensions]\n\tobjectformat = sha256\n");
        }
        config.push_str("[remote \"origin\"]\n\turl = \"");
        for c in self.repository.name.chars() {
            match c {
                '"' | '\\' => config.extend(['\\', c]),
                '\n' => config.push_str("\\n"),
                c => config.push(c),
            }
        }
        config.push_str("\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
        config
    }

    /// Tags as they are, branches as those of `origin`, as a clone has them.
    fn refs(&self, cancel: &Cancel) -> Result<String, BuildError> {
        let git_dir = &self.repository.git_dir;
        let format = "--format=%(objectname) %(refname)";
        let git = Git::new("for-each-ref", git_dir).git_dir(git_dir);
        let stdout = git.args([format, "refs/heads", "refs/tags"]).check(cancel)?.stdout;
        let text = String::from_utf8_lossy(&stdout);
        let mut refs: Vec<(String, &str)> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, name)| (name.replacen("refs/heads/", "refs/remotes/origin/", 1), id))
            .collect();
        refs.sort();
        let mut packed = "# pack-refs with: sorted \n".to_owned();
        for (name, id) in refs {
            // Writing to a text cannot fail.
            let _ = writeln!(packed, "{id} {name}");
        }
        Ok(packed)
    }

    fn submodules(&self, tree: &Place, had_tree: bool, cancel: &Cancel) -> Result<(), BuildError> {
        let modules = tree.path().join(".git/modules");
        let modules = modules.canonicalize().unwrap_or(modules);
        let run = |args: &[&str]| -> Result<Ended, BuildError> {
            let git = Git::new("submodule", &tree.held()).env("OVERSEER_MODULES", &modules);
            // A repository of this machine may name others of this machine; one from
            // elsewhere may not look into our files.
            let git = if self.is_local { git.setting("protocol.file.allow=always") } else { git };
            let ended = git.args(args).run(cancel)?;
            if ended.success() {
                return Ok(ended);
            }
            Err(BuildError::Submodules(crate::git::redact(&ended.said)))
        };
        if had_tree {
            run(&["--quiet", "foreach", "--recursive", OF_THIS_CHECKOUT])?;
        }
        run(&["--quiet", "sync", "--recursive"])?;
        run(&["--quiet", "update", "--init", "--recursive", "--force"])?;
        run(&["--quiet", "foreach", "--recursive", "git clean -ffdxq"])?;
        Ok(())
    }
}

/// What an earlier job did to a submodule may lead git out of the checkout: by its work tree's
/// setting or its `.git` file. Then the checkout is made anew.
const OF_THIS_CHECKOUT: &str = "test \"$(git rev-parse --show-toplevel)\" = \"$(pwd -P)\" && \
    case \"$(git rev-parse --absolute-git-dir)\" in \"$OVERSEER_MODULES\"/*) ;; *) false ;; esac";

/// Git makes no links in the repositories of submodules.
fn has_links(modules: &Path) -> bool {
    let mut entries = walkdir::WalkDir::new(modules).into_iter();
    entries.any(|entry| entry.is_ok_and(|entry| entry.path_is_symlink()))
}

/// The line of `info/alternates`: quoted as C does where the path needs it.
fn alternates(objects: &Path) -> Vec<u8> {
    let path = objects.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(path.len() + 3);
    if path.contains(&b'\n') || path.starts_with(b"\"") || path.starts_with(b"#") {
        line.push(b'"');
        for byte in path {
            match byte {
                b'\n' => line.extend(b"\\n"),
                b'"' | b'\\' => line.extend([b'\\', *byte]),
                _ => line.push(*byte),
            }
        }
        line.push(b'"');
    } else {
        line.extend(path);
    }
    line.push(b'\n');
    line
}

/// The files that the commit has, relative to the root; sorted.
pub(crate) fn tracked(
    checkout: &Checkout<'_>,
    slot: &Slot,
    tree: &Place,
    cancel: &Cancel,
) -> Result<std::collections::BTreeSet<std::path::PathBuf>, BuildError> {
    let names = checkout.git("ls-files", slot, tree).args(["-z", "--cached"]).check(cancel)?.stdout;
    Ok(names.split(|b| *b == 0).filter(|name| !name.is_empty()).map(path_of).collect())
}
