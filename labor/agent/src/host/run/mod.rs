//! The plugin of a program that is run once for each call.
//!
//! A plugin like any other to its host and its agent, so calls, deadlines, cancellation, logs and
//! restarts are theirs. Each call spawns the program and waits for it in the call's own thread.

mod memory;
mod outcome;
mod process;
mod streams;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use overseer_plugin::abi::Guest;
use overseer_plugin::{CallContext, Plugin, PluginError, StartContext};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Access, MemfdFlags};
use rustix::pipe::PipeFlags;

use self::memory::Memory;
use self::process::Process;
use super::isolation::Kills;

/// From SIGTERM to SIGKILL. Shorter than the time that the agent gives a call which is cancelled, or
/// the host would be the one to be killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long a host whose agent is gone waits for its programs.
const LAST_WAIT: Duration = Duration::from_millis(1500);

/// What is run; there is one in a process.
static PROGRAM: OnceLock<Program> = OnceLock::new();

/// An executable and its arguments.
struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    memory: Memory,
}

/// The plugin that runs this program, so many times at once. `kills` counts who of this process and its
/// children is killed for memory.
pub(super) fn guest(
    concurrency: &OsString,
    program: &OsString,
    args: &[OsString],
    kills: Option<Kills>,
) -> Guest {
    let memory = Memory::new(kills);
    PROGRAM.get_or_init(|| Program { path: program.into(), args: args.to_vec(), memory });
    // The agent has it from a manifest that was checked.
    let concurrency = concurrency.to_str().and_then(|text| text.parse().ok()).unwrap_or(1);
    Guest::with_concurrency::<Runner>(concurrency)
}

struct Runner {
    program: &'static Program,
    /// Calls that run.
    running: Mutex<usize>,
    /// None of them does.
    quiet: Condvar,
}

impl Plugin for Runner {
    fn start(_: &StartContext) -> Result<Self, PluginError> {
        let program = PROGRAM.get().ok_or("no program was named")?;
        rustix::fs::access(&program.path, Access::EXEC_OK)
            .map_err(|error| program.cannot_execute(&error.into()))?;
        Ok(Self { program, running: Mutex::new(0), quiet: Condvar::new() })
    }

    fn call(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        *self.running.lock() += 1;
        let outcome = self.program.run(context, method, payload);
        let mut running = self.running.lock();
        *running -= 1;
        if *running == 0 {
            self.quiet.notify_all();
        }
        outcome
    }

    /// Only a host whose agent is gone comes here while calls run; they have been cancelled. Programs
    /// have groups of their own, so the end of the host would not be theirs.
    fn stop(&self) {
        let mut running = self.running.lock();
        self.quiet.wait_while_for(&mut running, |running| *running > 0, LAST_WAIT);
    }
}

impl Program {
    fn run(&self, context: &CallContext, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginError> {
        if context.is_cancelled() {
            return Err(PluginError::cancelled());
        }
        if method.contains('\0') {
            return Err(PluginError::no_method("the method's name has a NUL character in it"));
        }
        let (stdout, stdout_writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(no_files)?;
        let (stderr, stderr_writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(no_files)?;
        // No more than this: a directory, an identity or code of ours before the program is executed
        // would make a fork of what is a posix_spawn, which takes twice as long.
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env("OVERSEER_METHOD", method)
            .env("OVERSEER_CALL", context.id().to_string())
            .process_group(0)
            .stdin(input(payload)?)
            .stdout(Stdio::from(stdout_writes))
            .stderr(Stdio::from(stderr_writes));
        if let Some(trace) = context.trace() {
            command.env("TRACEPARENT", trace);
        }
        let before = self.memory.before();
        let process = Process::start(&mut command).map_err(|error| self.cannot_execute(&error))?;
        let (runs, over) = channel::<()>();
        let group = process.group();
        context.on_cancel(move || {
            group.terminate();
            if over.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                group.kill();
            }
        });
        let log = |bytes: &[u8]| context.log("stderr", bytes);
        // The command holds the ends that the program writes to.
        let written = streams::read(&stdout, &stderr, command, &process, log);
        let status = process.end();
        drop(runs);
        outcome::judge(status, written, context.is_cancelled(), || self.memory.took(before))
    }

    fn cannot_execute(&self, error: &std::io::Error) -> PluginError {
        PluginError::failed(format!(
            "cannot execute {}: {error}; check the release's manifest and target",
            self.path.display()
        ))
    }
}

/// Standard input: a file in memory, so that nobody needs to write while the program runs.
fn input(payload: &[u8]) -> Result<Stdio, PluginError> {
    if payload.is_empty() {
        // The host's own, which is /dev/null.
        return Ok(Stdio::inherit());
    }
    let mut file = File::from(rustix::fs::memfd_create(c"payload", MemfdFlags::CLOEXEC).map_err(no_files)?);
    file.write_all(payload).and_then(|()| file.rewind())?;
    Ok(file.into())
}

fn no_files(error: rustix::io::Errno) -> PluginError {
    PluginError::failed(format!("no pipes for the program: {error}; raise the limit of open files"))
}
