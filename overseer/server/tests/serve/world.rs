//! A directory of its own for each test, with a release and a configuration; a server in it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use overseer::release::{ReleaseBuilder, library_beside_program};
use overseer_labor::marker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::ran::Ran;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Milliseconds that a call runs which is to be ended otherwise: longer than [`PATIENCE`].
pub(crate) const LONG: &str = "250000";

pub(crate) struct World {
    directory: TempDir,
    /// How the fleets' names begin: no other test has such.
    prefix: String,
}

impl World {
    /// One with the probe plugin as `probe.release` and a runtime directory.
    pub(crate) fn new() -> Self {
        static WORLDS: AtomicUsize = AtomicUsize::new(0);
        let world = WORLDS.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(directory.path().join("run")).unwrap();
        fs::write(directory.path().join("probe.release"), probe()).unwrap();
        Self { directory, prefix: format!("w{}-{world}-", std::process::id()) }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/overseer/control.sock")
    }

    /// The name of a fleet of this world.
    pub(crate) fn fleet(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Writes `overseer.toml`: what `[server]` says, and fleets with what each says.
    pub(crate) fn configure(&self, server: &str, fleets: &[(&str, &str)]) {
        let mut text = format!("[server]\ndata = \"data\"\n{server}\n");
        for (name, keys) in fleets {
            text.push_str(&format!(
                "[fleets.{}]\nadapter = \"local\"\nrelease = \"probe.release\"\nunsigned = \"allow\"\n{keys}\n",
                self.fleet(name)
            ));
        }
        fs::write(self.path("overseer.toml"), text).unwrap();
    }

    /// `overseer`, run in this world.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overseer"));
        command
            .args(args)
            .current_dir(self.directory.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("STATE_DIRECTORY", self.path("state"))
            .env("OVERSEER_CACHE", self.path("cache"))
            .env_remove("OVERSEER_SERVER")
            .env_remove("OVERSEER_SERVER_CA")
            .env_remove("OVERSEER_TOKEN")
            .env_remove("OVERSEER_TOKEN_FILE")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("RUST_LOG")
            .env_remove("TRACEPARENT")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null());
        command
    }

    /// Runs `overseer` to its end.
    pub(crate) fn overseer<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs `overseer … --json` to its end, which is good; its only document.
    pub(crate) fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(args);
        Ran::of(command.arg("--json").output().unwrap()).exits(0).document()
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn serve(&self) -> Serving {
        let mut serving = Serving::start(self.command(["serve"]));
        serving.wait_for("is ready");
        serving
    }

    /// Waits until so many labors of a fleet are ready.
    pub(crate) fn wait_ready(&self, fleet: &str, labors: u64) {
        let name = self.fleet(fleet);
        eventually(&format!("{labors} labors of {fleet} are ready"), || {
            let shown = self.ask(["fleet", "show", &name]);
            shown["ready"] == labors && shown["labors"] == labors
        });
    }

    /// Waits until so many calls and tasks are open at a fleet's labors.
    pub(crate) fn wait_open(&self, fleet: &str, calls: u64) {
        let name = self.fleet(fleet);
        eventually(&format!("{calls} calls of {fleet} are open"), || {
            let children = self.ask(["fleet", "show", &name])["children"].clone();
            let open = children.as_array().unwrap().iter().map(|labor| labor["open"].as_u64().unwrap());
            open.sum::<u64>() == calls
        });
    }

    /// Waits until the server takes nothing new; the error that says so.
    pub(crate) fn wait_stopping(&self, fleet: &str) -> Value {
        let name = self.fleet(fleet);
        let mut refused = Value::Null;
        eventually("the server is stopping", || {
            let ran = self.overseer(["call", &name, "echo", "1", "--json"]);
            if ran.code == 3 {
                refused = ran.document();
            }
            refused["code"] == "server.stopping"
        });
        refused
    }

    /// An argument for the probe's `wait_file`: it ends once [`World::go`] is said of it.
    pub(crate) fn gate(&self, name: &str) -> String {
        format!("{:?}", self.path(name).to_str().unwrap())
    }

    /// Lets calls and tasks end that wait for this.
    pub(crate) fn go(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    /// Processes of this world's nodes.
    pub(crate) fn nodes(&self) -> Vec<Pid> {
        self.nodes_of("")
    }

    /// Processes of the nodes of one fleet.
    pub(crate) fn nodes_of(&self, fleet: &str) -> Vec<Pid> {
        let marks = ["", "joined/"].map(|kind| format!("{kind}{}{fleet}", self.prefix));
        let marked = |pid: &Pid| {
            let node = marker::variable(pid.as_raw_pid(), marker::VARIABLE).unwrap_or_default();
            marks.iter().any(|mark| node.starts_with(mark.as_bytes()))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw);
        pids.filter(marked).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a test has left, or its failure.
        for pid in self.nodes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The probe plugin, packed once.
fn probe() -> &'static [u8] {
    static PACKED: OnceLock<Vec<u8>> = OnceLock::new();
    PACKED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let library = library_beside_program("probe_plugin").unwrap();
        let packed = directory.path().join("probe.release");
        ReleaseBuilder::plugin("probe", "1.0.0", library).write(&packed).unwrap();
        fs::read(packed).unwrap()
    })
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that runs on, and the lines that it says to people.
pub(crate) struct Serving {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Serving {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stderr.take().unwrap()), Box::new(child.stdout.take().unwrap())];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = send.send(line);
                }
            });
        }
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line with this in it.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("nobody said {part:?}: {:#?}", self.said);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; the exit code, -1 for a signal.
    pub(crate) fn end(&mut self) -> i32 {
        let mut code = None;
        eventually("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code()).unwrap_or(-1)
    }

    /// All that it has said that nobody has waited for, once it has ended.
    pub(crate) fn rest(&self) -> Vec<String> {
        // Whoever was started by it may still hold its outputs.
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            lines.push(line);
        }
        lines
    }

    /// All that it has said, once it has ended.
    pub(crate) fn everything(mut self) -> String {
        let rest = self.rest();
        self.said.extend(rest);
        self.said.join("\n")
    }

    /// Stops it in good order.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end(), 0);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Where a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
