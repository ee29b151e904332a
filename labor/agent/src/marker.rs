//! Which processes belong to a node, however they were forked: all carry a mark in their
//! environment.
//!
//! The environment of an agent can be read by root only, as its memory, for a plugin of the same user
//! would find the agent's keys there. What others of the user have to know of it is in its arguments too.
//!
//! One that was started with another environment (`env -i`) carries no mark. While the agent
//! lives, that one is found below it, for the agent adopts orphans. The limit of both: when the
//! agent is killed by SIGKILL, its descendants go to init, and those without a mark are not found
//! any more.

use std::fs;
use std::io::{self, ErrorKind};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that holds the name of the node, `FLEET/LABOR/GENERATION`.
pub const VARIABLE: &str = "OVERSEER_NODE";

/// Processes of this user whose environment has this mark, but for the calling one.
pub fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{VARIABLE}={mark}");
    let own = std::process::id() as i32;
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && has_mark(*pid, wanted.as_bytes())).collect()
}

fn has_mark(pid: i32, wanted: &[u8]) -> bool {
    said_of(pid).split(|b| *b == 0).any(|variable| variable == wanted)
}

/// The value of a variable in the environment of a process of this user; for an agent, where that is
/// closed, in its arguments.
pub fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let start = format!("{name}=");
    said_of(pid).split(|b| *b == 0).find_map(|v| v.strip_prefix(start.as_bytes())).map(<[u8]>::to_vec)
}

/// `NAME=VALUE`, and other texts, each with a zero byte behind it. Nothing of another user's process, or
/// of one that has just ended, which are not ours.
fn said_of(pid: i32) -> Vec<u8> {
    let read = |what| fs::read(format!("/proc/{pid}/{what}"));
    match read("environ") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && is_own(pid) => {
            let arguments = read("cmdline").unwrap_or_default();
            if is_agent(&arguments) { arguments } else { Vec::new() }
        }
        environment => environment.unwrap_or_default(),
    }
}

/// By the arguments of a process.
fn is_agent(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|b| *b == 0).skip(1);
    arguments.next() == Some(b"__overseer") && arguments.next() == Some(b"labor")
}

/// Whether a process is of this user, which the owner of its directory does not say of an agent.
fn is_own(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // The real one, then the effective one.
    let effective = users.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
    effective == Some(rustix::process::geteuid().as_raw())
}

/// Kills every process with this mark, again and again until none is left: one that forks
/// while it is looked for is found in the next round. Returns how many were killed.
///
/// # Errors
/// When processes with the mark are still there after many rounds.
pub fn end_marked(mark: &str) -> io::Result<usize> {
    let wanted = format!("{VARIABLE}={mark}");
    let mut killed = 0;
    for _ in 0..1000 {
        let pids = marked(mark);
        if pids.is_empty() {
            return Ok(killed);
        }
        for pid in pids {
            killed += usize::from(kill(pid, wanted.as_bytes()));
        }
        std::thread::yield_now();
    }
    Err(io::Error::other(format!("processes of {mark} do not end")))
}

/// Ends every other process of the node that this process is of, if it is of one.
pub(crate) fn end_others() {
    let Ok(mark) = std::env::var(VARIABLE) else { return };
    if let Err(error) = end_marked(&mark) {
        tracing::error!("processes are left: {error}");
    }
}

fn kill(pid: i32, wanted: &[u8]) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return false };
    // Held by the descriptor now: if the number was taken over by another, its mark differs.
    has_mark(pid, wanted) && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_are_found_and_ended_by_their_mark_also_when_they_left_their_group() {
        let mark = format!("test/{}/1", std::process::id());
        let mut shell = Command::new("sh")
            .args(["-c", "setsid sleep 1000 & sleep 1000"])
            .env(VARIABLE, &mark)
            .spawn()
            .unwrap();
        while marked(&mark).len() < 3 {
            std::thread::yield_now();
        }
        assert!(end_marked(&mark).unwrap() >= 3);
        assert!(!shell.wait().unwrap().success());
        assert_eq!(marked(&mark), Vec::<i32>::new());
    }
}
