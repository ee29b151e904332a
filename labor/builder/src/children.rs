//! The processes that the builder has started itself, and those that it adopts.
//!
//! A step may start a process, clear its environment, take it out of its group and let go of
//! it. Where the builder has a process of its own, such an orphan becomes a child of that
//! process, so at the end of a job everything below it that it has not started itself is the
//! job's.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, getpid, pidfd_open, set_child_subreaper, waitid,
    waitpid,
};

use crate::cancel::wait_readable;
use crate::processes::{self, PATIENCE, Process};

/// How often orphans that have ended are taken leave of while a job runs: until then they look
/// alive to who waits for their end by their id.
pub(crate) const REAP: Duration = Duration::from_millis(100);

static CHILDREN: Mutex<Children> =
    Mutex::new(Children { adopts: false, jobs: 0, since: 0, own: BTreeSet::new() });
/// No job runs any more.
static QUIET: Condvar = Condvar::new();

struct Children {
    /// Orphans come to this process, and all that it has are of jobs.
    adopts: bool,
    /// How many run now.
    jobs: usize,
    /// What was started before the first of them is nobody's.
    since: u64,
    /// Children that the builder has started and not reaped.
    own: BTreeSet<i32>,
}

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the one to which orphans below it come. Only for a process that is the
/// builder's alone: at the end of a job it kills what it has not started by [`Own`].
pub(crate) fn adopt() -> io::Result<()> {
    let mut children = children();
    set_child_subreaper(Some(getpid()))?;
    children.adopts = true;
    Ok(())
}

/// Whether orphans come to this process.
pub(crate) fn adopts() -> bool {
    children().adopts
}

/// Waits until no job runs, at most so long.
pub(crate) fn wait_quiet(most: Duration) {
    let _ = QUIET.wait_timeout_while(children(), most, |children| children.jobs > 0);
}

/// A process that the builder has started for itself.
#[derive(Debug)]
pub(crate) struct Own {
    child: Child,
    is_forgotten: bool,
}

impl Drop for Own {
    /// One that was not waited for is as any other from here on.
    fn drop(&mut self) {
        self.forget(&mut children());
    }
}

impl Own {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        // Under the lock, so that it cannot be seen without being known.
        let mut children = children();
        let child = command.spawn()?;
        children.own.insert(Pid::from_child(&child).as_raw_nonzero().get());
        Ok(Self { child, is_forgotten: false })
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// For its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Ok(handle) = pidfd_open(self.id(), PidfdFlags::empty()) {
            while matches!(wait_readable([handle.as_fd()], None), Ok([false])) {}
        }
        // Its number is free from here on, so it is forgotten in the same moment.
        let mut children = children();
        let status = self.child.wait()?;
        self.forget(&mut children);
        Ok(status)
    }

    fn forget(&mut self, children: &mut Children) {
        if !std::mem::replace(&mut self.is_forgotten, true) {
            children.own.remove(&self.id().as_raw_nonzero().get());
        }
    }
}

/// A job that runs. When this is dropped, all that it has left behind ends; as long as another
/// job runs beside it, orphans wait for the end of that one, for nobody knows whose they are.
#[derive(Debug)]
pub(crate) struct Job;

impl Job {
    /// `first` is the first process of the job.
    pub(crate) fn begin(first: &Own) -> Self {
        let mut children = children();
        if children.jobs == 0 {
            let process = Process::of(first.id().as_raw_nonzero().get());
            children.since = process.map_or(0, |process| process.born);
        }
        children.jobs += 1;
        Self
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut children = children();
        children.jobs -= 1;
        if children.jobs == 0 {
            if children.adopts {
                children.end_strangers();
            }
            QUIET.notify_all();
        }
    }
}

/// Takes leave of orphans that have ended.
pub(crate) fn reap_orphans() {
    let children = children();
    if children.adopts && matches!(any_child(), Ok(true)) {
        for process in children.strangers() {
            reap(&process);
        }
    }
}

impl Children {
    /// What is below this process, was started since the first job was, and not by the builder.
    fn strangers(&self) -> Vec<Process> {
        let is_child = |process: &Process| process.parent == own_id();
        let is_spared = |process: &Process| {
            is_child(process) && (self.own.contains(&process.id) || process.born < self.since)
        };
        processes::below(&processes::all(), is_child, is_spared)
    }

    /// Kills them, again and again until there are none: one that forks while it is looked at
    /// is found in the next round.
    fn end_strangers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while any_child().is_ok() {
            let strangers = self.strangers();
            let killed = processes::kill(&strangers, deadline);
            let reaped = strangers.iter().filter(|process| reap(process)).count();
            if killed + reaped == 0 || Instant::now() >= deadline {
                break;
            }
        }
    }
}

/// Whether a child has ended and was not reaped.
///
/// # Errors
/// There is no child at all.
fn any_child() -> Result<bool, Errno> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::All, look)?.is_some())
}

/// Reaps a child that has ended and is not the builder's own; others are waited for by their
/// owners.
fn reap(process: &Process) -> bool {
    let id = Pid::from_raw(process.id).filter(|_| process.parent == own_id());
    id.is_some_and(|id| matches!(waitpid(Some(id), WaitOptions::NOHANG), Ok(Some(_))))
}

fn own_id() -> i32 {
    getpid().as_raw_nonzero().get()
}
