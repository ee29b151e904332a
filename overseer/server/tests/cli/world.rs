//! A directory of its own for each test, with repositories and a cache.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use overseer_labor::marker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::ran::Ran;

pub(crate) const HELLO: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";
pub(crate) const MAKEFILE: &str = "hello: hello.c\n\tcc -o hello hello.c\n";

pub(crate) struct World {
    directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// A repository with one commit of these files.
    pub(crate) fn repository(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        self.git(&path, &["init", "-q", "-b", "main"]);
        self.commit(&path, files, "Say hello");
        path
    }

    /// The C project that Make builds.
    pub(crate) fn c_project(&self) -> PathBuf {
        self.repository("c", &[("hello.c", HELLO), ("Makefile", MAKEFILE)])
    }

    /// A repository with this build file.
    pub(crate) fn with_build_file(&self, text: &str) -> PathBuf {
        self.repository("repo", &[(".overseer.toml", text)])
    }

    pub(crate) fn commit(&self, repository: &Path, files: &[(&str, &str)], message: &str) {
        for (name, text) in files {
            let path = repository.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(repository, &["add", "-A"]);
        self.git(repository, &["commit", "-q", "-m", message]);
    }

    fn git(&self, repository: &Path, args: &[&str]) {
        let output = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=n@example.com", "-c", "commit.gpgsign=false"])
            .args(args)
            .current_dir(repository)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The program, run in this world.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("OVERSEER_CACHE", self.path("cache"))
            .env_remove("RUST_LOG")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs `overseer` to its end.
    pub(crate) fn overseer<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(env!("CARGO_BIN_EXE_overseer")).args(args).output().unwrap())
    }

    /// Processes that know of this world: a build's labors and what runs on them.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let place = self.directory.path().as_os_str().as_encoded_bytes();
        processes_with(|variable| variable.windows(place.len()).any(|part| part == place))
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Ran {
        Ran::of(command.output().unwrap())
    }

    /// Starts `overseer build REPOSITORY --json`.
    pub(crate) fn start_build(&self, repository: &Path, args: &[&str]) -> Building {
        let mut child = self
            .command(env!("CARGO_BIN_EXE_overseer"))
            .arg("build")
            .arg(repository)
            .args(["--json", "--out"])
            .arg(self.path("out"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let documents = BufReader::new(child.stdout.take().unwrap());
        let text = BufReader::new(child.stderr.take().unwrap());
        Building { child, documents, text: Some(text) }
    }
}

/// A build that runs, as its documents tell. It must not say more to people than a pipe holds.
pub(crate) struct Building {
    child: Child,
    documents: BufReader<ChildStdout>,
    text: Option<BufReader<ChildStderr>>,
}

impl Building {
    /// The next document.
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.documents.read_line(&mut line).unwrap() > 0, "the build has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// The next document of this event.
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let document = self.next();
            if document["event"] == event {
                return document;
            }
        }
    }

    /// Waits for a line for people with this in it.
    pub(crate) fn wait_for_text(&mut self, part: &str) {
        let text = self.text.as_mut().unwrap();
        let found = text.lines().map_while(Result::ok).any(|line| line.contains(part));
        assert!(found, "the build ended without saying {part}");
    }

    /// It may say as much to people as it likes.
    pub(crate) fn ignore_text(&mut self) {
        let mut text = self.text.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut text, &mut std::io::sink()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads on to the end; the exit code.
    pub(crate) fn end(mut self) -> i32 {
        std::io::copy(&mut self.documents, &mut std::io::sink()).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // Where a test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes with the mark of a labor's node, and their command lines.
pub(crate) fn processes_of(labor: &str) -> Vec<(Pid, String)> {
    let mark = format!("build/{labor}/");
    processes(|pid| {
        marker::variable(pid.as_raw_pid(), marker::VARIABLE)
            .is_some_and(|node| node.starts_with(mark.as_bytes()))
    })
}

/// Processes that have such a variable in their environment, and their command lines.
fn processes_with(is_it: impl Fn(&[u8]) -> bool) -> Vec<(Pid, String)> {
    processes(|pid| {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).unwrap_or_default();
        environment.split(|b| *b == 0).any(&is_it)
    })
}

fn processes(is_it: impl Fn(Pid) -> bool) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if is_it(pid) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// What builds have left in their directory for temporary files, but for the directory that
/// those of this user share, with its lock.
pub(crate) fn left_in(temporary: &Path) -> Vec<PathBuf> {
    let entries = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut left = Vec::new();
    for entry in entries(temporary) {
        let lock = entry.join("lock");
        if entry.is_dir() && lock.is_file() {
            left.extend(entries(&entry).into_iter().filter(|path| *path != lock));
        } else {
            left.push(entry);
        }
    }
    left
}

pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().unwrap().permissions().mode() & 0o777 == 0o755
}
