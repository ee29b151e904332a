//! The user that a plugin host runs as, and what only that user may do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use overseer_protocol::RunAs;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Whether a host can be this user where these are the users, as `/etc/passwd` has them.
///
/// # Errors
/// Who is asked for is not there, or is root; in words.
pub fn check_user(wanted: &RunAs, users: &str) -> Result<(), String> {
    User::of(wanted, users).map(|_| ())
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// Looks it up in `/etc/passwd`.
    ///
    /// # Errors
    /// Who is asked for is not there, or this process may not become another user; in words.
    pub(super) fn find(wanted: &RunAs) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err(format!("only an agent that is root can run a host as user {wanted}"));
        }
        let users = fs::read_to_string("/etc/passwd");
        let users = users.map_err(|error| format!("/etc/passwd cannot be read: {error}"))?;
        Self::of(wanted, &users)
    }

    fn of(wanted: &RunAs, users: &str) -> Result<Self, String> {
        let mut known = users.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
            Some(Self { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        });
        let found = match wanted {
            RunAs::Name(name) => known.find(|user| user.name == *name).ok_or_else(|| {
                format!("no user {name} is in /etc/passwd; make one (`useradd --system {name}`), or say UID:GID of one that is elsewhere")
            })?,
            RunAs::Ids { uid, gid } => {
                let known = known.find(|user| user.uid == *uid);
                let gid = gid.or(known.as_ref().map(|user| user.gid)).ok_or_else(|| {
                    format!("no user {uid} is in /etc/passwd, so its group is not known; say {uid}:GID")
                })?;
                Self { name: known.map_or_else(|| uid.to_string(), |user| user.name), uid: *uid, gid }
            }
        };
        if found.uid == 0 || found.gid == 0 {
            return Err(format!("user {wanted} is root here, or of root's group, which no limit holds"));
        }
        Ok(found)
    }

    /// The calling thread is this user from now on, for good, in no other group.
    pub(super) fn become_it(uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }

    /// Does something with just the rights of this user. Blocks meanwhile.
    ///
    /// # Errors
    /// As that does, or the user cannot be taken on.
    pub(crate) fn act<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        // The kernel keeps users by thread: this one goes, and the agent's others are not touched.
        std::thread::scope(|scope| {
            let acting = std::thread::Builder::new().spawn_scoped(scope, || {
                Self::become_it(self.uid, self.gid)?;
                act()
            })?;
            acting.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))
        })
    }

    /// Gives it the directory that a host works in, closed to others.
    pub(super) fn give(&self, directory: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::os::unix::fs::lchown(directory, Some(self.uid), Some(self.gid))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
    }

    /// Whether it gets to these files and may read them.
    ///
    /// # Errors
    /// What is closed to it, in words.
    pub(super) fn reaches(&self, files: &[&Path]) -> Result<(), String> {
        let closed = |path: &Path, error: &io::Error| {
            let (name, path) = (&self.name, path.display());
            format!(
                "user {name} does not get to {path}: {error}; let others pass (`chmod o+x`) through the directories above what the labor keeps, or keep it elsewhere"
            )
        };
        let look = || Ok(files.iter().find_map(|file| first_closed(file)));
        match self.act(look) {
            Ok(None) => Ok(()),
            Ok(Some((path, error))) => Err(closed(&path, &error)),
            Err(error) => Err(format!("the agent cannot act as user {}: {error}", self.name)),
        }
    }
}

/// The topmost directory that the calling thread does not get through, else the file itself where that
/// cannot be read.
fn first_closed(file: &Path) -> Option<(PathBuf, io::Error)> {
    let mut above: Vec<&Path> = file.ancestors().skip(1).collect();
    above.reverse();
    let passes =
        |directory: &&Path| Some((directory.to_path_buf(), fs::metadata(directory.join(".")).err()?));
    above.iter().find_map(passes).or_else(|| Some((file.to_owned(), fs::File::open(file).err()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\nadmin:x:7:0::/:\nbad\n";

    fn of(wanted: &str) -> Result<(String, u32, u32), String> {
        User::of(&wanted.parse().unwrap(), USERS).map(|user| (user.name, user.uid, user.gid))
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        assert_eq!(of("nobody"), Ok(("nobody".into(), 65534, 65533)));
        assert_eq!(of("65534"), Ok(("nobody".into(), 65534, 65533)));
        assert_eq!(of("65534:5"), Ok(("nobody".into(), 65534, 5)));
        assert_eq!(of("12:13"), Ok(("12".into(), 12, 13)));
    }

    #[test]
    fn who_is_not_there_or_is_as_good_as_root_is_named() {
        assert!(of("builder").unwrap_err().contains("useradd --system builder"));
        assert!(of("12").unwrap_err().contains("say 12:GID"));
        assert!(of("admin").unwrap_err().contains("no limit"));
    }
}
