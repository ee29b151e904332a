use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use overseer_protocol::Cause;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::isolation::Groups;
use super::spawn::Spawned;
use super::{HostOutput, Shared, boot_failed, output};
use crate::orphans;

/// The process group of a host, as long as its number is known to be its own.
#[derive(Debug)]
pub(super) struct Group {
    leader: Mutex<Option<Pid>>,
}

impl Group {
    pub(super) fn new(leader: Pid) -> Self {
        Self { leader: Mutex::new(Some(leader)) }
    }

    /// Kills every process of the group.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks every process of the group to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills what is left of the group of a leader that has ended and is not reaped yet: until
    /// then nobody else can have its number.
    pub(super) fn kill_last(&self) {
        self.kill();
        *self.leader.lock() = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = *self.leader.lock() {
            // The only errors are that it is gone, or not ours because it became another user.
            let _ = rustix::process::kill_process_group(leader, signal);
        }
    }
}

/// What comes of the tasks of a host.
pub(super) struct Tasks {
    /// Concurrency, or why there was no start; dropped when the host ended without a word.
    pub(super) started: oneshot::Receiver<Result<u32, Cause>>,
    /// To be sent when the host counts as started, so that its end is announced.
    pub(super) ready: oneshot::Sender<()>,
    /// Why the process ended, once it has.
    pub(super) ended: watch::Receiver<Option<Cause>>,
}

/// Starts the tasks of a host: one for its socket, one for each of its pipes, one for its end.
pub(super) fn run(spawned: Spawned, shared: Arc<Shared>, output: mpsc::Sender<HostOutput>) -> Tasks {
    let Spawned { mut child, pid, ends, socket, stdout, stderr, supervised, groups } = spawned;
    let (started_sender, started) = oneshot::channel();
    let (ready, started_well) = oneshot::channel();
    let (ended_sender, ended) = watch::channel(None);
    let (gone, is_gone) = watch::channel(false);
    let (read_sender, read) = oneshot::channel();

    let mut tasks = JoinSet::new();
    tasks.spawn(output::run(stdout, "stdout", output.clone(), is_gone.clone()));
    tasks.spawn(output::run(stderr, "stderr", output.clone(), is_gone.clone()));
    if supervised {
        tasks.spawn(executed(socket, started_sender, read_sender));
    } else {
        let connection = Connection::new(socket, shared.clone(), output.clone(), started_sender);
        tasks.spawn(connection.run(is_gone, read_sender));
    }

    tokio::spawn(async move {
        has_ended(pid, ends).await;
        shared.group.kill_last();
        let status = child.wait().await;
        orphans::host_ended(pid);
        let _ = gone.send(true);
        // What the host said of its own end is read before the end is judged.
        let _ = read.await;
        let cause = judge(&shared, status, supervised, &groups);
        if !groups.is_empty() {
            // What is left in them ends with the host, and may take a moment to do so.
            let _ = tokio::task::spawn_blocking(move || drop(groups)).await;
        }
        shared.health.lock().clear();
        let _ = ended_sender.send(Some(cause.clone()));
        while tasks.join_next().await.is_some() {}
        if started_well.await.is_ok() {
            // Nobody listens any more: then nobody misses it.
            let _ = output.send(HostOutput::Ended(cause)).await;
        }
    });
    Tasks { started, ready, ended }
}

/// Waits until a child has ended, and leaves it unreaped.
async fn has_ended(pid: Pid, mut ends: tokio::signal::unix::Signal) {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error is that there is no such child any more.
    while let Ok(None) = rustix::process::waitid(WaitId::Pid(pid), look) {
        if ends.recv().await.is_none() {
            return;
        }
    }
}

fn judge(
    shared: &Shared,
    status: std::io::Result<std::process::ExitStatus>,
    supervised: bool,
    groups: &Groups,
) -> Cause {
    let verdict = shared.verdict.lock();
    if let Some(fault) = &verdict.fault {
        return fault.clone();
    }
    let seen = match status {
        // The kernel kills for memory by this signal, and nobody of ours has sent it.
        Ok(status)
            if status.signal() == Some(Signal::KILL.as_raw())
                && groups.killed_for_memory() > shared.told_for_memory.load(Ordering::Relaxed) =>
        {
            Cause::OutOfMemory
        }
        Ok(status) => Cause::of_exit(status.code(), status.signal()),
        Err(error) => Cause::Unhealthy { reason: format!("the process could not be waited for: {error}") },
    };
    // A program that was asked to end says so in many ways; a plugin host in one.
    let as_asked = supervised || seen == (Cause::Exited { code: 0 });
    if verdict.asked && as_asked { Cause::Asked } else { seen }
}

/// Waits until a supervised program is executed: that closes the socket, on which otherwise
/// comes why it could not be.
async fn executed(
    mut socket: UnixStream,
    started: oneshot::Sender<Result<u32, Cause>>,
    read: oneshot::Sender<()>,
) {
    let mut error = Vec::new();
    let outcome = match (&mut socket).take(4096).read_to_end(&mut error).await {
        Ok(0) => Ok(0),
        Ok(_) => Err(boot_failed(String::from_utf8_lossy(&error))),
        Err(error) => Err(boot_failed(format!("the process cannot be heard: {error}"))),
    };
    let _ = started.send(outcome);
    let _ = read.send(());
}
