//! Runs a job's steps, one after the other, and nothing of them is left when this ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::BuildError;
use crate::api::{Failure, FailureReason, RunOutcome, StepReport};
use crate::cancel::{Cancel, wait_readable};
use crate::group::Group;
use crate::tail::Tail;

/// Who is told what happens; each may block, which holds the steps up.
pub(crate) trait Listener {
    /// Output of the steps, in order.
    fn output(&mut self, bytes: &[u8]);
    /// A step begins; its number from 0.
    fn step_started(&mut self, step: u32, command: &str);
    /// A step has ended, and all that it wrote was told.
    fn step_finished(&mut self, step: u32, report: &StepReport);
}

/// What is run, and where.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    pub(crate) commands: &'a [String],
    pub(crate) directory: &'a Path,
    pub(crate) env: &'a BTreeMap<String, OsString>,
    /// For all steps together.
    pub(crate) timeout: Duration,
}

/// How the steps went.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: RunOutcome,
    pub(crate) steps: Vec<StepReport>,
}

enum StepEnd {
    Exited(ExitStatus),
    TimedOut,
    Cancelled,
}

/// Runs the steps in this group. Both outputs of all processes of the job go into one pipe,
/// which is read no faster than the listener takes it: a flood waits in the kernel, not here.
pub(crate) fn run(
    steps: &Steps<'_>,
    group: &Arc<Group>,
    cancel: &Cancel,
    listener: &mut impl Listener,
) -> Result<Ran, BuildError> {
    let fault = |e| BuildError::io("cannot run steps in", steps.directory)(e);
    let (reader, writer) = io::pipe().map_err(fault)?;
    let mut output = Output { reader, buffer: vec![0; 64 * 1024], tail: Tail::default() };
    let begun = Instant::now();
    // A deadline that the clock cannot hold is no deadline.
    let deadline = begun.checked_add(steps.timeout);
    let mut ran = Ran { outcome: RunOutcome::Passed, steps: vec![] };
    for (number, command) in (0..).zip(steps.commands) {
        listener.step_started(number, command);
        output.tail.clear();
        let step_begun = Instant::now();
        let mut shell = spawn(steps, command, group, &writer).map_err(fault)?;
        let end = output.follow(&mut shell, deadline, cancel, listener);
        if !matches!(end, Ok(StepEnd::Exited(_))) {
            group.kill();
        }
        // Reaped in every case; after a kill it is over at once.
        let status = shell.wait().map_err(fault)?;
        let end = end.map_err(fault)?;
        output.drain(listener).map_err(fault)?;
        let exit = if matches!(end, StepEnd::Exited(_)) { status.code() } else { None };
        let ms = u64::try_from(step_begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let report = StepReport { command: command.clone(), ms, exit };
        listener.step_finished(number, &report);
        ran.steps.push(report);
        let reason = match end {
            StepEnd::Cancelled => {
                ran.outcome = RunOutcome::Cancelled;
                break;
            }
            // The group is killed on cancellation before this loop sees it.
            StepEnd::Exited(_) if cancel.is_set() => {
                ran.outcome = RunOutcome::Cancelled;
                break;
            }
            StepEnd::TimedOut => FailureReason::Timeout {
                after_ms: u64::try_from(steps.timeout.as_millis()).unwrap_or(u64::MAX),
            },
            StepEnd::Exited(status) => match (status.code(), status.signal()) {
                (Some(0), _) => continue,
                (_, Some(signal)) => FailureReason::Signal { signal },
                (code, None) => FailureReason::Exit { code: code.unwrap_or(-1) },
            },
        };
        ran.outcome = RunOutcome::Failed(Failure { step: Some(number), reason, tail: output.tail.lines() });
        break;
    }
    group.end();
    // What processes in the background wrote since the last step ended.
    output.drain(listener).map_err(fault)?;
    Ok(ran)
}

fn spawn(steps: &Steps<'_>, command: &str, group: &Group, output: &PipeWriter) -> io::Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-e", "-c", "--", command])
        .current_dir(steps.directory)
        .env_clear()
        .envs(steps.env)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    group.join(&mut shell);
    shell.spawn()
}

struct Output {
    reader: PipeReader,
    buffer: Vec<u8>,
    tail: Tail,
}

impl Output {
    /// Tells what comes out of the pipe until the shell has ended.
    fn follow(
        &mut self,
        shell: &mut Child,
        deadline: Option<Instant>,
        cancel: &Cancel,
        listener: &mut impl Listener,
    ) -> io::Result<StepEnd> {
        let process = pidfd_open(Pid::from_child(shell), PidfdFlags::empty())?;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let fds = [cancel.fd(), process.as_fd(), self.reader.as_fd()];
            let [cancelled, ended, readable] = wait_readable(fds, left)?;
            if cancelled {
                return Ok(StepEnd::Cancelled);
            }
            if ended {
                return Ok(StepEnd::Exited(shell.wait()?));
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(StepEnd::TimedOut);
            }
            if readable {
                self.tell(usize::MAX, listener)?;
            }
        }
    }

    /// Tells what is in the pipe now, and no more: a process in the background may write on.
    fn drain(&mut self, listener: &mut impl Listener) -> io::Result<()> {
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&self.reader)?).unwrap_or(usize::MAX);
        while left > 0 {
            left = left.saturating_sub(self.tell(left, listener)?);
        }
        Ok(())
    }

    fn tell(&mut self, most: usize, listener: &mut impl Listener) -> io::Result<usize> {
        let most = most.min(self.buffer.len());
        let n = self.reader.read(&mut self.buffer[..most])?;
        self.tail.push(&self.buffer[..n]);
        listener.output(&self.buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
