//! The child's side: limits that a process puts on itself before anything of a release is in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::kills::Kills;
use super::user::User;

/// What the agent tells the child, as one argument.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::host) struct Limits {
    /// Files of groups to enter.
    pub(super) groups: Vec<PathBuf>,
    /// What counts who of them is killed for memory.
    pub(super) kills: Option<Kills>,
    /// User and group.
    pub(super) user: Option<(u32, u32)>,
    pub(super) open_files: Option<u64>,
    pub(super) file_size: Option<u64>,
    pub(super) core: Option<u64>,
    /// Bytes of data of each process.
    pub(super) data: Option<u64>,
}

impl Limits {
    pub(super) fn to_argument(&self) -> OsString {
        // No part of it can fail: the paths are of directories that were just made from text.
        serde_json::to_string(self).unwrap_or_default().into()
    }

    /// Reads and applies them; for a process with one thread. Gives what tells who of its processes is
    /// killed for memory, where something does.
    ///
    /// # Errors
    /// What could not be applied, in words. Nothing may run then.
    pub(in crate::host) fn apply(argument: &OsStr) -> Result<Option<Kills>, String> {
        let limits = argument.to_str().and_then(|text| serde_json::from_str::<Self>(text).ok());
        let limits = limits.ok_or("the limits of this host cannot be read; is the agent of this version?")?;
        // First, for what is loaded from here on is to be counted, and another user may not enter.
        for group in &limits.groups {
            // 0 is whoever writes.
            let entered = fs::write(group, "0");
            entered.map_err(|error| format!("the group {} cannot be entered: {error}", group.display()))?;
        }
        let bounds = [
            (Resource::Nofile, limits.open_files),
            (Resource::Fsize, limits.file_size),
            (Resource::Core, limits.core),
            (Resource::Data, limits.data),
        ];
        for (resource, most) in bounds {
            if let Some(most) = most {
                bound(resource, most)
                    .map_err(|error| format!("{resource:?} cannot be limited to {most}: {error}"))?;
            }
        }
        if let Some((uid, gid)) = limits.user {
            become_user(uid, gid).map_err(|error| format!("user {uid}:{gid} cannot be taken on: {error}"))?;
        }
        Ok(limits.kills)
    }
}

/// Not more than that, and never more than it is already.
fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // Else who opens /dev/stdout or /dev/stderr by name would be refused.
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(io::stdout(), Some(user), Some(group))?;
    rustix::fs::fchown(io::stderr(), Some(user), Some(group))?;
    User::become_it(uid, gid)?;
    // No program of another user or with capabilities gives back what was just given up.
    rustix::thread::set_no_new_privs(true)?;
    // There is nothing of the agent's in here, and without that /proc/self would be closed to the plugin.
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_read_or_entered_let_nothing_run() {
        let unreadable = Limits::apply(OsStr::new("{")).unwrap_err();
        assert!(unreadable.contains("cannot be read"), "{unreadable}");
        let nowhere = Limits { groups: vec!["/nonexistent/cgroup.procs".into()], ..Limits::default() };
        let refused = Limits::apply(&nowhere.to_argument()).unwrap_err();
        assert!(refused.contains("/nonexistent/cgroup.procs"), "{refused}");
        assert_eq!(Limits::apply(&Limits::default().to_argument()), Ok(None));
        let counted = Limits { kills: Some(Kills("/nowhere/memory.events".into())), ..Limits::default() };
        assert_eq!(Limits::apply(&counted.to_argument()), Ok(counted.kills));
    }
}
