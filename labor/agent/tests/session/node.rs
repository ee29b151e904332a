use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use overseer_protocol::Bootstrap;
use tempfile::{NamedTempFile, TempDir};

use crate::overseer::LONG;

/// A real agent process. It ends with the test: its owner's pipe closes.
pub struct Node {
    child: Child,
    pub pipe: Option<ChildStdin>,
    pub directory: TempDir,
}

impl Node {
    pub fn start(bootstrap: &Bootstrap) -> Self {
        Self::start_in(bootstrap, tempfile::tempdir().unwrap())
    }

    pub fn start_in(bootstrap: &Bootstrap, directory: TempDir) -> Self {
        Self::spawn(bootstrap, directory, &mut Command::new(env!("CARGO_BIN_EXE_labor")))
    }

    /// With its log in a file.
    pub fn start_logging(bootstrap: &Bootstrap, level: &str) -> (Self, NamedTempFile) {
        let log = NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_labor"));
        command.env("RUST_LOG", level).stderr(log.reopen().unwrap());
        (Self::spawn(bootstrap, tempfile::tempdir().unwrap(), &mut command), log)
    }

    /// With its document in a file, or in the environment.
    pub fn start_from(bootstrap: &Bootstrap, in_file: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_labor"));
        let document = bootstrap.to_json().unwrap();
        if in_file {
            let path = directory.path().join("bootstrap.json");
            std::fs::write(&path, document).unwrap();
            command.arg("--bootstrap").arg(path);
        } else {
            command.env("OVERSEER_BOOTSTRAP", String::from_utf8(document).unwrap());
        }
        let command = command.arg("--directory").arg(directory.path());
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Self { child, pipe: None, directory }
    }

    fn spawn(bootstrap: &Bootstrap, directory: TempDir, command: &mut Command) -> Self {
        let command = command.args(["--stdin", "--directory"]).arg(directory.path());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let mut line = bootstrap.to_json().unwrap();
        line.push(b'\n');
        pipe.write_all(&line).unwrap();
        Self { child, pipe: Some(pipe), directory }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; gives the exit code and the directory.
    pub async fn ended(mut self) -> (i32, TempDir) {
        let waiting = tokio::task::spawn_blocking(move || {
            // `wait` would close the pipe, and so end what it waits for.
            let pipe = self.pipe.take();
            let status = self.child.wait().unwrap();
            drop(pipe);
            (status.code().expect("an exit code"), std::mem::replace(&mut self.directory, empty()))
        });
        tokio::time::timeout(LONG, waiting).await.expect("the agent did not end in time").unwrap()
    }

    pub fn spool(&self) -> PathBuf {
        self.directory.path().join("spool").join(self.pid().to_string())
    }
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
