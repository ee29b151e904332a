//! Runs a job's steps, one after the other, and nothing of them is left when this ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};

use crate::BuildError;
use crate::api::{Failure, FailureReason, RunOutcome, StepReport};
use crate::cancel::{Cancel, wait_readable};
use crate::children::{self, Own, REAP};
use crate::group::Group;
use crate::place::Place;
use crate::processes::PATIENCE;
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
    pub(crate) place: &'a Place,
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
    Exited,
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
    let fault = |e| BuildError::io("cannot run steps in", steps.place.path())(e);
    let (reader, writer) = io::pipe().map_err(fault)?;
    let reap = children::adopts().then_some(REAP);
    let mut output = Output { reader, buffer: vec![0; 64 * 1024], tail: Tail::default(), reap };
    let begun = Instant::now();
    // A deadline that the clock cannot hold is no deadline.
    let deadline = begun.checked_add(steps.timeout);
    let mut ran = Ran { outcome: RunOutcome::Passed, steps: vec![] };
    for (number, command) in (0..).zip(steps.commands) {
        listener.step_started(number, command);
        output.tail.clear();
        let step_begun = Instant::now();
        let mut shell = match start(steps, command, group, &writer) {
            Ok(Ok(shell)) => shell,
            Ok(Err(message)) => {
                let report = StepReport { command: command.clone(), ms: 0, exit: None };
                listener.step_finished(number, &report);
                ran.steps.push(report);
                let reason = FailureReason::Artifacts { message };
                ran.outcome = RunOutcome::Failed(Failure { step: Some(number), reason, tail: vec![] });
                break;
            }
            Err(error) => return Err(fault(error)),
        };
        let end = output.follow(&shell, deadline, cancel, listener);
        let has_ended = match end {
            Ok(StepEnd::Exited) => true,
            _ => {
                group.kill();
                output.outlast(&shell, listener).map_err(fault)?
            }
        };
        let status = if has_ended { Some(shell.wait().map_err(fault)?) } else { None };
        let end = end.map_err(fault)?;
        output.drain(listener).map_err(fault)?;
        let exit = status.filter(|_| matches!(end, StepEnd::Exited)).and_then(|status| status.code());
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
            StepEnd::Exited if cancel.is_set() => {
                ran.outcome = RunOutcome::Cancelled;
                break;
            }
            StepEnd::TimedOut => FailureReason::Timeout {
                after_ms: u64::try_from(steps.timeout.as_millis()).unwrap_or(u64::MAX),
            },
            StepEnd::Exited => match status.map(|status| (status.code(), status.signal())) {
                Some((Some(0), _)) => continue,
                Some((_, Some(signal))) => FailureReason::Signal { signal },
                other => FailureReason::Exit { code: other.and_then(|(code, _)| code).unwrap_or(-1) },
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

/// Starts a step.
///
/// # Errors
/// Inside: why the job fails, for the user: an earlier step has taken its directory away.
fn start(
    steps: &Steps<'_>,
    command: &str,
    group: &Group,
    output: &PipeWriter,
) -> io::Result<Result<Own, String>> {
    if let Err(message) = steps.place.check() {
        return Ok(Err(message));
    }
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-e", "-c", "--", command])
        .current_dir(steps.place.path())
        .env_clear()
        .envs(steps.env)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    match group.spawn(&mut shell) {
        Ok(shell) => Ok(Ok(shell)),
        // A process in the background may have done it just now.
        Err(error) => steps.place.check().map_or_else(|message| Ok(Err(message)), |()| Err(error)),
    }
}

struct Output {
    reader: PipeReader,
    buffer: Vec<u8>,
    tail: Tail,
    /// How often orphans are reaped, where they come to this process.
    reap: Option<Duration>,
}

impl Output {
    /// Tells what comes out of the pipe until the shell has ended.
    fn follow(
        &mut self,
        shell: &Own,
        deadline: Option<Instant>,
        cancel: &Cancel,
        listener: &mut impl Listener,
    ) -> io::Result<StepEnd> {
        let process = pidfd_open(shell.id(), PidfdFlags::empty())?;
        let mut reaped = Instant::now();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = left.into_iter().chain(self.reap).min();
            let fds = [cancel.fd(), process.as_fd(), self.reader.as_fd()];
            let [cancelled, ended, readable] = wait_readable(fds, wait)?;
            if cancelled {
                return Ok(StepEnd::Cancelled);
            }
            // Also when it has ended meanwhile: it ran longer than it may.
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(StepEnd::TimedOut);
            }
            if ended {
                return Ok(StepEnd::Exited);
            }
            if readable {
                self.tell(usize::MAX, listener)?;
            }
            if self.reap.is_some_and(|reap| reaped.elapsed() >= reap) {
                children::reap_orphans();
                reaped = Instant::now();
            }
        }
    }

    /// The same for a shell that was killed; says whether it has ended. One that became another
    /// user's, by sudo, cannot be killed by us, and a build does not wait for it.
    fn outlast(&mut self, shell: &Own, listener: &mut impl Listener) -> io::Result<bool> {
        let process = pidfd_open(shell.id(), PidfdFlags::empty())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let [ended, readable] = wait_readable([process.as_fd(), self.reader.as_fd()], Some(left))?;
            if ended || left.is_zero() {
                return Ok(ended);
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
