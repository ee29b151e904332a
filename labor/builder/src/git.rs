//! The git program, kept from doing anything but what it is asked: no prompts, no hooks, no
//! writes into repositories of users, and killed when the call is cancelled.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::BuildError;
use crate::cancel::{Cancel, wait_readable};
use crate::children::Own;
use crate::place::Place;

/// Variables that say how to reach a server. All others of git's are removed: they would point
/// it to other repositories, indexes or objects.
const KEPT: [&str; 8] = [
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_PROXY_COMMAND",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
];

const SETTINGS: [&str; 10] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    // A server that says nothing for so long is gone.
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=120",
];

/// Most of what git says to its error output that is kept, in bytes.
const SAID: usize = 16 * 1024;

/// A git command that is being put together.
pub(crate) struct Git {
    command: Command,
    name: String,
}

/// A git command that ended.
pub(crate) struct Ended {
    name: String,
    success: bool,
    /// What it wrote.
    pub(crate) stdout: Vec<u8>,
    /// What it said, trimmed.
    pub(crate) said: String,
}

impl Git {
    /// `git NAME`, in a directory.
    pub(crate) fn new(name: &str, directory: &Path) -> Self {
        let mut command = Command::new("git");
        command.current_dir(directory).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let is_git = name.to_str().is_some_and(|n| n.starts_with("GIT_") && !KEPT.contains(&n));
            if is_git {
                command.env_remove(name);
            }
        }
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            // Empty, so that no graphical prompt is taken instead.
            .env("GIT_ASKPASS", "")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            // Its words are read, so they are to be English.
            .env("LC_ALL", "C");
        if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
            command.env(
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30",
            );
        }
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        // One group, so that its helpers (ssh, index-pack) end with it.
        command.process_group(0);
        Self { command, name: name.to_owned() }
    }

    /// With a setting, before the subcommand.
    pub(crate) fn setting(mut self, setting: &str) -> Self {
        self.command.args(["-c", setting]);
        self
    }

    /// In this repository, whatever the directory is.
    pub(crate) fn git_dir(mut self, git_dir: &Path) -> Self {
        self.command.env("GIT_DIR", git_dir);
        self
    }

    /// `git NAME` on a work tree with its `.git` in it, by an index elsewhere. It works in that
    /// very directory, whatever is put at its path meanwhile.
    pub(crate) fn on(name: &str, tree: &Place, index: &Path) -> Self {
        let mut git = Self::new(name, &tree.held());
        git.command.env("GIT_DIR", ".git").env("GIT_WORK_TREE", ".").env("GIT_INDEX_FILE", index);
        git
    }

    /// With a variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The subcommand and its arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        let name = std::mem::take(&mut self.name);
        if !name.is_empty() {
            self.command.arg(&name);
        }
        self.command.args(args);
        Self { command: self.command, name }
    }

    /// Runs it to its end, or to the cancellation.
    pub(crate) fn run(mut self, cancel: &Cancel) -> Result<Ended, BuildError> {
        cancel.check()?;
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Own::spawn(&mut self.command).map_err(spawn_error(&self.command))?;
        let result = read_to_end(&mut child, cancel);
        if !matches!(result, Ok(Some(_))) {
            kill_group(&child);
        }
        let status = child.wait().map_err(BuildError::io("cannot wait for", "git".as_ref()))?;
        let (stdout, stderr) = match result {
            Ok(Some(output)) => output,
            Ok(None) => return Err(BuildError::Cancelled),
            Err(e) => return Err(BuildError::io("cannot read from", "git".as_ref())(e)),
        };
        let mut said = String::from_utf8_lossy(&stderr).trim().to_owned();
        if said.is_empty() {
            said = match (status.code(), status.signal()) {
                (_, Some(signal)) => format!("nothing, it was ended by signal {signal}"),
                (code, _) => format!("nothing, it ended with code {}", code.unwrap_or(-1)),
            };
        }
        Ok(Ended { name: self.name, success: status.success(), stdout, said: one_line(&said) })
    }

    /// Runs it; a failure is an error.
    pub(crate) fn check(self, cancel: &Cancel) -> Result<Ended, BuildError> {
        let ended = self.run(cancel)?;
        if ended.success { Ok(ended) } else { Err(ended.into_error()) }
    }
}

impl Ended {
    pub(crate) fn success(&self) -> bool {
        self.success
    }

    pub(crate) fn into_error(self) -> BuildError {
        BuildError::Git { command: self.name, said: redact(&self.said) }
    }
}

/// `git cat-file --batch`: answers one question after the other from one process.
pub(crate) struct Objects {
    child: Own,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// An object as it was found.
pub(crate) enum Found {
    /// Its id and contents.
    Object(String, Vec<u8>),
    /// There is none.
    Missing,
    /// The short id is the beginning of several.
    Ambiguous,
    /// It is larger than asked for: its size.
    TooLarge(u64),
}

impl Objects {
    pub(crate) fn open(git_dir: &Path) -> Result<Self, BuildError> {
        let mut git = Git::new("cat-file", git_dir).git_dir(git_dir).args(["--batch"]);
        git.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Own::spawn(&mut git.command).map_err(spawn_error(&git.command))?;
        match (child.child().stdin.take(), child.child().stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { child, stdin, stdout: BufReader::new(stdout) }),
            _ => Err(fault("it has no pipes")),
        }
    }

    /// Looks up an expression without line ends, such as `HEAD^{commit}` or `v1:README`.
    pub(crate) fn get(&mut self, expression: &str, limit: usize) -> Result<Found, BuildError> {
        let ask = |this: &mut Self| -> io::Result<String> {
            writeln!(this.stdin, "{expression}")?;
            this.stdin.flush()?;
            let mut head = Vec::new();
            this.stdout.read_until(b'\n', &mut head)?;
            Ok(String::from_utf8_lossy(&head).trim_end_matches('\n').to_owned())
        };
        let head = ask(self).map_err(|e| fault(&e.to_string()))?;
        if head.ends_with(" missing") {
            return Ok(Found::Missing);
        }
        if head.ends_with(" ambiguous") {
            return Ok(Found::Ambiguous);
        }
        let mut words = head.split(' ');
        let (Some(id), Some(_), Some(size)) = (words.next(), words.next(), words.next()) else {
            return Err(fault(if head.is_empty() { "nothing" } else { &head }));
        };
        let size: u64 = size.parse().map_err(|_| fault(&head))?;
        let mut body = Vec::new();
        // One byte more: the line end after the object.
        let mut rest = (&mut self.stdout).take(size + 1);
        let read = if size > limit as u64 {
            io::copy(&mut rest, &mut io::sink()).map(|_| ())
        } else {
            rest.read_to_end(&mut body).map(|_| ())
        };
        read.map_err(|e| fault(&e.to_string()))?;
        if size > limit as u64 {
            return Ok(Found::TooLarge(size));
        }
        if body.pop() != Some(b'\n') || body.len() as u64 != size {
            return Err(fault("an object was cut short"));
        }
        Ok(Found::Object(id.to_owned(), body))
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        kill_group(&self.child);
        let _ = self.child.wait();
    }
}

/// Without the user name and password of every URL in it.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || "'\"".contains(c));
        let host = &after[..end.unwrap_or(after.len())];
        rest = match host.rfind('@') {
            Some(user) => &after[user + 1..],
            None => after,
        };
    }
    out + rest
}

fn read_to_end(child: &mut Own, cancel: &Cancel) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let pid = child.id();
    let child = child.child();
    let (Some(stdout), Some(stderr)) = (&mut child.stdout, &mut child.stderr) else {
        return Err(io::Error::other("it has no pipes"));
    };
    let (mut out, mut said) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    let (mut out_open, mut said_open) = (true, true);
    while out_open || said_open {
        // A pipe at its end is always readable, so only the open ones are waited for.
        let ready = match (out_open, said_open) {
            (true, true) => wait_readable([cancel.fd(), stdout.as_fd(), stderr.as_fd()], None)?,
            (true, false) => {
                wait_readable([cancel.fd(), stdout.as_fd()], None).map(|[c, o]| [c, o, false])?
            }
            _ => wait_readable([cancel.fd(), stderr.as_fd()], None).map(|[c, e]| [c, false, e])?,
        };
        if ready[0] {
            return Ok(None);
        }
        if ready[1] {
            let n = stdout.read(&mut buffer)?;
            out.extend_from_slice(&buffer[..n]);
            out_open = n > 0;
        }
        if ready[2] {
            let n = stderr.read(&mut buffer)?;
            let room = SAID.saturating_sub(said.len());
            said.extend_from_slice(&buffer[..n.min(room)]);
            said_open = n > 0;
        }
    }
    // Both pipes are closed, yet the process may go on: waiting for it can be cancelled too.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        match wait_readable([cancel.fd(), pidfd.as_fd()], None)? {
            [true, _] => return Ok(None),
            [_, true] => return Ok(Some((out, said))),
            _ => {}
        }
    }
}

/// The child is not reaped yet, so the group's id cannot be anybody else's.
fn kill_group(child: &Own) {
    let _ = kill_process_group(child.id(), Signal::KILL);
}

fn spawn_error(command: &Command) -> impl FnOnce(io::Error) -> BuildError {
    let directory = command.get_current_dir().map(PathBuf::from);
    move |error| match directory.filter(|d| error.kind() == io::ErrorKind::NotFound && !d.is_dir()) {
        Some(directory) => BuildError::NoSuchPath(directory),
        None => BuildError::NoGit(error),
    }
}

fn fault(said: &str) -> BuildError {
    BuildError::Git { command: "cat-file".into(), said: said.to_owned() }
}

/// Without git's prefixes, hints and line ends.
fn one_line(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:"));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        assert_eq!(redact("https://me:secret@host/x y"), "https://host/x y");
        assert_eq!(
            redact("fatal: 'ssh://u@h:22/a@b' and https://t@g"),
            "fatal: 'ssh://h:22/a@b' and https://g"
        );
        assert_eq!(redact("https://p@ss:w@host/"), "https://host/");
        assert_eq!(redact("git@host:path://"), "git@host:path://");
    }
}
