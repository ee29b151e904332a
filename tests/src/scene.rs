//! A server program that is killed and started again on one directory, and what it says.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use overseer::FleetName;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{processes, within};

/// A directory and a name for one fleet. Whatever of the fleet runs when this goes is killed.
pub struct Scene {
    directory: tempfile::TempDir,
    /// The fleet.
    pub fleet: FleetName,
}

impl Scene {
    /// One whose fleet's name begins like this; in it a directory `marks`.
    pub fn new(name: &str) -> Self {
        let fleet = format!("{name}-{}", std::process::id()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("marks")).unwrap();
        Self { directory, fleet }
    }

    /// Something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// How often something has left this mark.
    pub fn marks(&self, name: &str) -> usize {
        let mark = self.path("marks").join(name);
        std::fs::read_to_string(mark).unwrap_or_default().lines().count()
    }

    /// What of the fleet runs in this role.
    pub fn count(&self, role: processes::Role) -> usize {
        processes::of(&self.fleet).iter().filter(|p| p.role == role).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Where a test has failed.
        for process in processes::of(&self.fleet) {
            processes::signal(process.pid, Signal::KILL);
        }
    }
}

/// A server that runs, says JSON documents line by line, and stops in good order when its standard
/// input ends.
pub struct Server {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().unwrap() as i32
    }

    /// Its next document; none when it is gone.
    pub async fn next(&mut self) -> Option<Value> {
        let line = within("a word of the server", self.said.next_line()).await.unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// This key of its next document, which must have it.
    pub async fn says(&mut self, what: &str) -> Value {
        let said = self.next().await.unwrap_or_else(|| panic!("it is gone before it said {what}"));
        assert!(!said[what].is_null(), "{said}");
        said[what].clone()
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ends its input: it stops its fleet.
    pub fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends its input, and waits for its end; how it ended.
    pub async fn wait(&mut self) -> ExitStatus {
        self.hang_up();
        within("the server ends", self.child.wait()).await.unwrap()
    }

    /// Stops its fleet and itself, in good order.
    pub async fn end(mut self) {
        assert!(self.wait().await.success());
    }
}
