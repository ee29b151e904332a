use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::end::Group;

/// A program that runs, in a process group of its own. None of that group is left when this is
/// dropped.
pub(super) struct Process {
    child: Child,
    group: Arc<Group>,
    ends: OwnedFd,
}

impl Process {
    /// Spawns it.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(ends) => Ok(Self { child, group: Arc::new(Group::new(pid)), ends }),
            Err(error) => {
                Group::new(pid).kill();
                child.wait()?;
                Err(error.into())
            }
        }
    }

    pub(super) fn group(&self) -> Arc<Group> {
        Arc::clone(&self.group)
    }

    /// Waits for the program, whose group ends with it.
    pub(super) fn end(mut self) -> io::Result<ExitStatus> {
        self.group.kill_last();
        self.child.wait()
    }
}

impl AsFd for Process {
    /// Readable once the program has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.kill_last();
        let _ = self.child.wait();
    }
}
