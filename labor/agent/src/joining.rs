//! `labor join`: a machine that somebody owns joins a fleet, with the token of an invitation.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use overseer_protocol::{Bootstrap, Claim, FleetName, JoinToken, MAX_JOIN_TOKEN_BYTES, Secret};
use rustix::fs::MemfdFlags;

use crate::args::{self, CacheArgs, Fault};
use crate::marker;
use crate::tells::Tells;

const EXAMPLES: &str = "\
Examples:
  overseer labor join overseer-join-…                 as `overseer fleet invite` has printed it
  ssh server overseer fleet invite web --token | sudo overseer labor join -
  overseer labor join - --dir /srv/labor < token

It runs until the Overseer ends it (exit code 0), or a signal: the first one lets it finish what
runs, the second ends it at once. It is then no part of the fleet any more; to come back, it needs
another invitation. The exit codes are those of `overseer labor`; 11 also stands for an invitation
that is used up, too old or taken back, and 10 for a token that is no token.

A token on the command line can be seen by other users of the machine for a moment, and stays in the
history of the shell. `-` reads it from standard input instead. Once it is read it is in the memory
of the agent only.";

/// Lets this machine join a fleet: `overseer fleet invite` on the server prints the command
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct JoinArgs {
    /// The token of the invitation, or `-` to read it from standard input
    #[arg(value_name = "TOKEN", value_parser = hidden)]
    token: Secret<String>,
    /// Keep releases, logs and scratch files here. Else, for root, in
    /// /var/lib/overseer-labor/FLEET, for others in $XDG_STATE_HOME or ~/.local/state, under
    /// overseer-labor/FLEET
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Say what happens in documents on standard output, one on a line, and log JSON to standard
    /// error
    #[arg(long)]
    json: bool,
}

#[allow(clippy::unnecessary_wraps)]
fn hidden(text: &str) -> Result<Secret<String>, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

/// Runs the agent to its end.
pub(crate) fn main(args: JoinArgs) -> ExitCode {
    args::log_to_stderr(args.json);
    let ended = read(&args).and_then(|token| {
        let JoinToken { bootstrap, until } = token;
        let directory = match args.dir.clone() {
            Some(directory) => directory,
            None => default_directory(&bootstrap.fleet).ok_or(Fault::NoDirectory)?,
        };
        let tells = Tells::Joined { fleet: bootstrap.fleet.clone(), until, json: args.json };
        args::start(args.cache.clone().over(bootstrap), Some(directory), tells)
    });
    let (exit, fault) = match ended {
        Ok(exit) => (exit, None),
        Err(fault) => (fault.exit(), Some(fault)),
    };
    if fault.is_none() && !args.json {
        eprintln!("labor: ended: {}", exit.meaning());
    }
    args::ended(exit, fault.as_ref(), args.json)
}

/// Reads the token. What was given on the command line, or carries no mark for what plugins leave
/// behind, starts this process again, with the mark and the token on standard input.
fn read(args: &JoinArgs) -> Result<JoinToken, Fault> {
    let given = args.token.expose();
    let text =
        if given == "-" { Secret::new(from_stdin().map_err(Fault::NoToken)?) } else { args.token.clone() };
    let token = JoinToken::parse(text.expose())?;
    let mark = mark(&token.bootstrap);
    if std::env::var(marker::VARIABLE).is_ok_and(|present| present == mark) && given == "-" {
        // Nobody finds it there any more, and what plugins start does not get it.
        let empty = File::open("/dev/null").and_then(|null| Ok(rustix::stdio::dup2_stdin(null)?));
        empty.map_err(Fault::NoToken)?;
        return Ok(token);
    }
    let error = again(&text, &mark);
    tracing::warn!("what plugins leave behind is not found when the agent is killed: {error}");
    Ok(token)
}

/// What the processes of this node carry. Not the name of a node that an adapter has made: to one
/// on this machine it is a stranger. The number of this process, which stays when it starts itself
/// again, tells it from another one that was given the same token, and is refused.
fn mark(bootstrap: &Bootstrap) -> String {
    let who = match &bootstrap.claim {
        Claim::Labor { labor, generation, .. } => format!("{labor}/{generation}"),
        Claim::Batch { batch, instance, .. } => format!("{batch}/{instance}"),
    };
    format!("joined/{}/{who}/{}", bootstrap.fleet, std::process::id())
}

/// One line where a person types it, else all that comes.
fn from_stdin() -> io::Result<String> {
    let mut text = String::new();
    let most = 2 * MAX_JOIN_TOKEN_BYTES as u64;
    if io::stdin().is_terminal() {
        eprintln!("labor: paste the token and press Enter");
        io::stdin().read_line(&mut text)?;
    } else {
        io::stdin().lock().take(most).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Does not come back unless it fails.
fn again(token: &Secret<String>, mark: &str) -> io::Error {
    let memory = || {
        let mut file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC)?);
        file.write_all(token.expose().as_bytes())?;
        file.rewind()?;
        Ok::<_, io::Error>(file)
    };
    let input = match memory() {
        Ok(file) => file,
        Err(error) => return error,
    };
    let hide = |arg: OsString| if arg == token.expose().as_str() { "-".into() } else { arg };
    let mut args = std::env::args_os().map(hide);
    let name = args.next().unwrap_or_else(|| "labor".into());
    // By its name where that is still this file, so that people see it under that name.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let program = program.unwrap_or_else(|| "/proc/self/exe".into());
    Command::new(program).arg0(name).args(args).env(marker::VARIABLE, mark).stdin(Stdio::from(input)).exec()
}

/// Where the agent of a fleet keeps its files when nobody says.
fn default_directory(fleet: &FleetName) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/lib"),
        false => variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?,
    };
    Some(base.join("overseer-labor").join(fleet.as_str()))
}
