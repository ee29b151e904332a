//! Agents that a process before this one has started.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use overseer_adapter::{Node, Notice};
use overseer_protocol::Cause;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::child::{Running, clean_up};
use crate::{Inner, found};

/// Watches the agent of a node until it ends. None when it has ended by now.
pub(crate) fn adopt(inner: &Arc<Inner>, node: &Node) -> Option<Running> {
    let pid = found::pid(node)?;
    let process = pid_of(pid)?;
    let handle = pidfd_open(process, PidfdFlags::NONBLOCK).ok()?;
    // Held by the descriptor now: if the number was taken over by another, its mark differs.
    let directory = found::directory_of_agent(pid, &node.key)?;
    let handle = Arc::new(watched(handle).ok()?);
    let (tell, gone) = watch::channel(false);
    let (key, watched, inner) = (node.key.clone(), Arc::clone(&handle), Arc::downgrade(inner));
    tokio::spawn(async move {
        let cause = end_of(&watched).await;
        clean_up(key.to_string(), directory).await;
        let notices = inner.upgrade().and_then(|inner| inner.gone(&key));
        tell.send_replace(true);
        if let Some(notices) = notices {
            // A fleet that has stopped listens no more.
            let _ = notices.send(Notice::Ended(key, cause)).await;
        }
    });
    Some(Running::adopted(pid, node.owner.clone(), handle, gone))
}

/// What replaces this call is unsafe, for it takes descriptors that their owner may close: an
/// `OwnedFd` is open for as long as it is there.
#[allow(deprecated)]
fn watched(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(handle, Interest::READABLE)
}

/// Only a parent is told how its child ended.
async fn end_of(handle: &AsyncFd<OwnedFd>) -> Cause {
    let reason = match handle.readable().await {
        Ok(_) => "the agent has ended; how, was told to the process that had started it".to_owned(),
        Err(error) => format!("its end was not seen: {error}"),
    };
    Cause::AdapterError { reason }
}

/// Kills the agent, and not another process that has its number by now.
pub(crate) fn kill(handle: &AsyncFd<OwnedFd>) -> io::Result<()> {
    Ok(pidfd_send_signal(handle.get_ref(), Signal::KILL)?)
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
