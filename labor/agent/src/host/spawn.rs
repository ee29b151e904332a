use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;

use overseer_protocol::Cause;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::isolation::{Confined, Groups};
use super::{Confinement, HostKind, HostSpec, boot_failed};
use crate::orphans;

/// What a host has of the agent's environment; all else could hold the agent's secrets.
/// The mark is how whatever a plugin starts is found when its node ends.
const INHERITED: [&str; 10] = [
    "HOME",
    "LANG",
    crate::marker::VARIABLE,
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
];

/// What of it names places of the agent's user, of no use to another.
const OF_THE_AGENTS_USER: [&str; 4] = ["HOME", "TMPDIR", "USER", "XDG_CACHE_HOME"];

/// A process and the agent's ends of what connects it.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) pid: Pid,
    /// Tells of ends of the agent's processes, since before this one was spawned.
    pub(super) ends: Signal,
    pub(super) socket: UnixStream,
    pub(super) stdout: Receiver,
    pub(super) stderr: Receiver,
    pub(super) supervised: bool,
    /// To be ended after it.
    pub(super) groups: Groups,
}

/// Spawns the process of a host, in a process group of its own.
pub(super) fn spawn(spec: &HostSpec) -> Result<Spawned, Cause> {
    let what = match &spec.what {
        HostKind::Plugin { library } => library,
        HostKind::Serve { executable, .. }
        | HostKind::Run { executable, .. }
        | HostKind::Supervise { executable, .. } => executable,
    };
    let prepare = |confinement: &Arc<Confinement>| confinement.prepare(&spec.name, &spec.directory, what);
    let confined = spec.confinement.as_ref().map(prepare).transpose()?;
    let (program, args) = command(spec, confined.as_ref())?;
    connect(spec, &program, args, confined).map_err(|error| {
        boot_failed(format!(
            "cannot start {} by {} in {}: {error}",
            what.display(),
            program.display(),
            spec.directory.display()
        ))
    })
}

/// Program and arguments: a program that serves is started by itself where there is nothing to apply
/// before.
fn command(spec: &HostSpec, confined: Option<&Confined>) -> Result<(OsString, Vec<OsString>), Cause> {
    if let (HostKind::Serve { executable, args }, None) = (&spec.what, confined) {
        return Ok((executable.into(), args.iter().map(OsString::from).collect()));
    }
    let (program, mut all) = match spec.command.split_first() {
        Some((program, args)) => (program.clone(), args.to_vec()),
        None => return Err(boot_failed("the agent was not told how to start a plugin host")),
    };
    if let Some(confined) = confined {
        all.extend(["confined".into(), confined.argument.clone()]);
    }
    match &spec.what {
        HostKind::Plugin { library } => all.extend(["load".into(), library.into()]),
        HostKind::Serve { executable, args } => {
            all.extend(["serve".into(), executable.into()]);
            all.extend(args.iter().map(OsString::from));
        }
        HostKind::Run { executable, args, concurrency } => {
            all.extend(["run".into(), concurrency.to_string().into(), executable.into()]);
            all.extend(args.iter().map(OsString::from));
        }
        HostKind::Supervise { executable, args } => {
            all.extend(["supervise".into(), std::process::id().to_string().into(), executable.into()]);
            all.extend(args.iter().map(OsString::from));
        }
    }
    Ok((program, all))
}

fn connect(
    spec: &HostSpec,
    program: &OsStr,
    args: Vec<OsString>,
    confined: Option<Confined>,
) -> io::Result<Spawned> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (stdout, stdout_writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let of_user = confined.as_ref().map(|confined| confined.environment(&spec.directory)).unwrap_or_default();
    let inherited = INHERITED.iter().filter(|name| of_user.is_empty() || !OF_THE_AGENTS_USER.contains(name));
    let inherited = inherited.filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(inherited)
        .envs(of_user)
        .envs(&spec.environment)
        .current_dir(&spec.directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(stdout_writes))
        .stderr(Stdio::from(stderr_writes))
        .process_group(0)
        .kill_on_drop(true);
    let ends = signal(SignalKind::child())?;
    let (child, pid) = orphans::start_host(|| {
        let child = command.spawn()?;
        let gone = || io::Error::other("the process was gone at once");
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or_else(gone)?;
        Ok((child, pid))
    })?;
    // The command holds the host's ends; the agent must not, or it would never see them close.
    drop(command);
    Ok(Spawned {
        child,
        pid,
        ends,
        socket: UnixStream::from_std(ours)?,
        stdout: Receiver::from_owned_fd(stdout)?,
        stderr: Receiver::from_owned_fd(stderr)?,
        supervised: matches!(spec.what, HostKind::Supervise { .. }),
        groups: confined.map(|confined| confined.groups).unwrap_or_default(),
    })
}
