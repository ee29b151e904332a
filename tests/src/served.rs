//! `overseer serve` with one fleet of the probe, in a directory of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use overseer::release::ReleaseBuilder;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::patience::eventually;
use crate::{probe_library, processes};

/// A server that runs. Ends by [`Served::stop`].
pub struct Served {
    program: &'static str,
    directory: TempDir,
    /// Its fleet, which has a name that no other test has.
    pub fleet: String,
    child: Child,
    starts: usize,
}

impl Served {
    /// Starts the program with these lines in `[server]` and in the section of its fleet, and waits
    /// until it serves.
    pub async fn start(program: &'static str, test: &str, server: &str, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(directory.path().join("run")).unwrap();
        let release = directory.path().join("probe.release");
        ReleaseBuilder::plugin("probe", "1.0.0", probe_library()).write(&release).unwrap();
        let fleet = format!("{test}-{}", std::process::id());
        let text = format!(
            "[server]\ndata = \"data\"\n{server}\n[fleets.{fleet}]\nadapter = \"local\"\n\
             release = \"probe.release\"\nunsigned = \"allow\"\n{keys}\n"
        );
        fs::write(directory.path().join("overseer.toml"), text).unwrap();
        let child = serve(program, &directory, 0);
        let served = Self { program, directory, fleet, child, starts: 0 };
        served.serves().await;
        served
    }

    /// Starts it again, after it has ended.
    pub async fn again(&mut self) {
        self.starts += 1;
        self.child = serve(self.program, &self.directory, self.starts);
        self.serves().await;
    }

    async fn serves(&self) {
        let log = self.path(&format!("log-{}", self.starts));
        eventually("the server is ready", async || {
            fs::read_to_string(&log).unwrap().contains("is ready").then_some(())
        })
        .await;
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program as its client.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        command(self.program, &self.directory, args)
    }

    /// What a client prints, which comes to a good end.
    pub fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until its labor is ready.
    pub async fn ready(&self) {
        eventually("the labor is ready", async || (self.shown()["ready"] == 1).then_some(())).await;
    }

    /// Its fleet, as `fleet show --json` has it.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask(["fleet", "show", &self.fleet, "--json"])).unwrap()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills the agents of its labors.
    pub fn kill_agents(&self) {
        for process in processes::of(&self.fleet.parse().unwrap()) {
            if process.role == processes::Role::Agent {
                processes::signal(process.pid, Signal::KILL);
            }
        }
    }

    /// Ends the labors, then the server, in good order.
    pub async fn stop(mut self) {
        self.ask(["fleet", "stop", &self.fleet]);
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the server ends", async || self.child.try_wait().unwrap()).await;
        assert_eq!(processes::of(&self.fleet.parse().unwrap()), [], "processes are left");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Where a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in processes::of(&self.fleet.parse().unwrap()) {
            processes::signal(process.pid, Signal::KILL);
        }
    }
}

fn serve(program: &str, directory: &TempDir, start: usize) -> Child {
    let log = File::create(directory.path().join(format!("log-{start}"))).unwrap();
    command(program, directory, ["serve"]).stderr(log).spawn().unwrap()
}

fn command<S: AsRef<OsStr>>(
    program: &str,
    directory: &TempDir,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(directory.path()).env("XDG_RUNTIME_DIR", directory.path().join("run"));
    for name in ["OVERSEER_SERVER", "RUST_LOG", "NOTIFY_SOCKET", "TRACEPARENT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}
