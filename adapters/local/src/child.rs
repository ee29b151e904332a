use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use overseer_adapter::{AdapterError, Node, NodeKey, Notice, Request};
use overseer_labor::marker;
use overseer_protocol::Cause;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use crate::{Inner, adopted, found};

/// An agent that was started and whose end has not been seen.
pub(crate) struct Running {
    pid: u32,
    owner: Option<String>,
    /// Of one that another process has started.
    adopted: Option<Arc<AsyncFd<OwnedFd>>>,
    gone: watch::Receiver<bool>,
}

impl Running {
    pub(crate) fn spawn(inner: &Arc<Inner>, request: &Request) -> Result<Self, AdapterError> {
        let key = request.key.clone();
        let directory = request.bootstrap.directory.clone();
        let log = match &directory {
            Some(directory) => Stdio::from(open_log(directory)?),
            None => Stdio::null(),
        };
        let mut bootstrap = request.bootstrap.to_json().map_err(|e| AdapterError::Invalid(e.to_string()))?;
        bootstrap.push(b'\n');
        let owner = request.bootstrap.owner();
        let mut command = Command::new(&inner.program);
        command.args(["__overseer", "labor"]);
        let mut tell = |name: &str, value: &OsStr| {
            let argument = [OsStr::new(name), OsStr::new("="), value].into_iter().collect::<OsString>();
            command.env(name, value).arg(argument);
        };
        tell(marker::VARIABLE, key.to_string().as_ref());
        tell(found::OWNER, owner.as_ref());
        if let Some(directory) = &directory {
            tell(found::DIRECTORY, directory.as_os_str());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // An interrupt at the terminal is the Overseer's to handle.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let program = inner.program.display();
                AdapterError::Invalid(format!(
                    "{program} cannot be started as agent: {error}; give the path of a labor"
                ))
            })?;
        let pid = child.id().unwrap_or_default();
        let (tell, gone) = watch::channel(false);
        let pipe = child.stdin.take();
        let inner = Arc::downgrade(inner);
        tokio::spawn(async move {
            let pipe = hand_over(pipe, bootstrap).await;
            let status = child.wait().await;
            drop(pipe);
            let cause = end_of(status);
            clean_up(key.to_string(), directory).await;
            let notices = inner.upgrade().and_then(|inner| inner.gone(&key));
            tell.send_replace(true);
            if let Some(notices) = notices {
                // A fleet that has stopped listens no more.
                let _ = notices.send(Notice::Ended(key, cause)).await;
            }
        });
        Ok(Self { pid, owner: Some(owner), adopted: None, gone })
    }

    /// An agent that another process has started.
    pub(crate) fn adopted(
        pid: u32,
        owner: Option<String>,
        handle: Arc<AsyncFd<OwnedFd>>,
        gone: watch::Receiver<bool>,
    ) -> Self {
        Self { pid, owner, adopted: Some(handle), gone }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn node(&self, key: &NodeKey) -> Node {
        found::node(key.clone(), self.pid, self.owner.clone())
    }

    /// Kills the agent's group; what is returned tells when nothing of it is left.
    pub(crate) fn kill(&self) -> watch::Receiver<bool> {
        if let Some(handle) = &self.adopted {
            // One that has ended already is fine. The rest of its group goes by its mark.
            let _ = adopted::kill(handle);
            return self.gone.clone();
        }
        // Not reaped before its watcher has seen the end, so the number is still its own; a
        // group that has ended already is fine.
        if !*self.gone.borrow()
            && let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.gone.clone()
    }
}

/// Gives the agent its bootstrap; the pipe stays open as a sign that the owner lives.
async fn hand_over(pipe: Option<ChildStdin>, bootstrap: Vec<u8>) -> Option<ChildStdin> {
    let mut pipe = pipe?;
    // An agent that ended before it read this is seen by its exit.
    let _ = pipe.write_all(&bootstrap).await;
    Some(pipe)
}

fn open_log(directory: &Path) -> Result<File, AdapterError> {
    let open = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join("agent.log");
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    };
    open().map_err(|error| {
        let directory = directory.display();
        AdapterError::Invalid(format!(
            "{directory} cannot be used by a labor: {error}; make room or fix its permissions"
        ))
    })
}

fn end_of(status: std::io::Result<ExitStatus>) -> Cause {
    match status {
        Ok(status) => Cause::of_exit(status.code(), status.signal()),
        Err(error) => Cause::AdapterError { reason: format!("its end was not seen: {error}") },
    }
}

/// What the agent has left running is ended, its directory removed.
pub(crate) async fn clean_up(mark: String, directory: Option<PathBuf>) {
    let clean = tokio::task::spawn_blocking(move || {
        if let Err(error) = marker::end_marked(&mark) {
            tracing::error!(%error, "processes are left");
        }
        // An agent that was killed has not removed its own.
        overseer_labor::host::end_stale_groups();
        if let Some(directory) = directory
            && let Err(error) = fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "a labor's directory was not removed");
        }
    });
    // A panic in there has been printed; the node is gone all the same.
    let _ = clean.await;
}
