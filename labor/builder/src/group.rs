use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// The variable by which processes of a job are found that left its group.
pub(crate) const MARK: &str = "OVERSEER_RUN";

/// How often the processes that left the group are looked for again: a process may have
/// started another one while it was looked at.
const ROUNDS: usize = 10;

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
    leader: Mutex<Option<Child>>,
}

impl Group {
    /// Starts the leader. `mark` is unique among the jobs of this machine.
    pub(crate) fn start(mark: String) -> io::Result<Self> {
        let leader = Command::new("/bin/sh")
            .args(["-c", "read -r line; kill -KILL 0"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { id: Pid::from_child(&leader), mark, leader: Mutex::new(Some(leader)) })
    }

    /// Makes a command start in the group.
    pub(crate) fn join(&self, command: &mut Command) {
        command.process_group(self.id.as_raw_nonzero().get()).env(MARK, &self.mark);
    }

    /// Kills every process of the group; those that left it live until [`end`](Self::end).
    pub(crate) fn kill(&self) {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if leader.is_some() {
            // It fails when nobody is left, which is what is wanted.
            let _ = kill_process_group(self.id, Signal::KILL);
        }
    }

    /// Kills every process of the job, those too that made themselves sessions of their own.
    pub(crate) fn end(&self) {
        self.kill();
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut leader) = leader else { return };
        let _ = leader.wait();
        for _ in 0..ROUNDS {
            if !kill_marked(&self.mark) {
                break;
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills the processes whose environment has the mark; says whether there were any.
fn kill_marked(mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let mut any = false;
    for process in processes.filter_map(Result::ok) {
        let id = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(id) = id else { continue };
        // Opened before it is looked at: so it is this very process that gets the signal.
        let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
        if environment.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes()) {
            any |= pidfd_send_signal(&handle, Signal::KILL).is_ok();
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_job_does_not_outlive_the_labor() {
        let group = Group::start("unused".into()).unwrap();
        let mut command = Command::new("sleep");
        group.join(command.arg("1000"));
        let mut child = command.spawn().unwrap();
        // What the kernel does when the process that holds the pipe is killed.
        drop(group.leader.lock().unwrap().as_mut().unwrap().stdin.take());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
