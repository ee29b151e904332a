use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::children::{Job, Own};
use crate::processes::{self, PATIENCE};

/// The variable by which processes of a job are found that left its group.
pub(crate) const MARK: &str = "OVERSEER_RUN";

/// The processes of one job. They end with it, and with this process, however it ends.
///
/// Its leader is a shell that reads from a pipe whose other end only we hold: when we are gone,
/// even by SIGKILL, it kills the group and itself. As long as the leader is not reaped, the
/// group's id cannot become anybody else's.
#[derive(Debug)]
pub(crate) struct Group {
    id: Pid,
    mark: String,
    /// `None` when it has ended.
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    leader: Own,
    /// The step that was started last. It may have left the group: `exec setsid …`.
    step: Option<OwnedFd>,
    job: Job,
}

impl Group {
    /// Starts the leader. `mark` is unique among the jobs of this machine.
    pub(crate) fn start(mark: String) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "read -r line; kill -KILL 0"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let leader = Own::spawn(&mut shell)?;
        let (id, job) = (leader.id(), Job::begin(&leader));
        Ok(Self { id, mark, running: Mutex::new(Some(Running { leader, step: None, job })) })
    }

    /// Starts a step in the group.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Own> {
        command.process_group(self.id.as_raw_nonzero().get()).env(MARK, &self.mark);
        let mut step = Own::spawn(command)?;
        match pidfd_open(step.id(), PidfdFlags::empty()) {
            Ok(handle) => {
                if let Some(running) = &mut *self.running() {
                    running.step = Some(handle);
                }
                Ok(step)
            }
            Err(error) => {
                let _ = step.child().kill();
                let _ = step.wait();
                Err(error.into())
            }
        }
    }

    /// Kills every process of the group, and the step, wherever it is; others that left the
    /// group live until [`end`](Self::end).
    pub(crate) fn kill(&self) {
        if let Some(running) = &*self.running() {
            // Both fail when nobody is left, which is what is wanted.
            let _ = kill_process_group(self.id, Signal::KILL);
            if let Some(step) = &running.step {
                let _ = pidfd_send_signal(step, Signal::KILL);
            }
        }
    }

    /// Kills every process of the job, those too that made themselves sessions of their own.
    pub(crate) fn end(&self) {
        self.kill();
        let running = self.running().take();
        let Some(Running { mut leader, job, .. }) = running else { return };
        let _ = leader.wait();
        self.end_marked();
        drop(job);
    }

    /// Kills the processes with the mark and those below them, again and again until there are
    /// none: one that forks while it is looked at is found in the next round.
    fn end_marked(&self) {
        let entry = format!("{MARK}={}", self.mark);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let marked = processes::with_entry(&entry);
            if marked.is_empty() {
                break;
            }
            let all = processes::all();
            let victims = processes::below(&all, |process| marked.contains(&process.id), |_| false);
            if processes::kill(&victims, deadline) == 0 || Instant::now() >= deadline {
                break;
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_job_does_not_outlive_the_labor() {
        let group = Group::start("unused".into()).unwrap();
        let mut step = group.spawn(Command::new("sleep").arg("1000")).unwrap();
        // What the kernel does when the process that holds the pipe is killed.
        drop(group.running().as_mut().unwrap().leader.child().stdin.take());
        assert_eq!(step.wait().unwrap().signal(), Some(9));
    }
}
