//! What runs on this machine, as `/proc` shows it, and how it is ended for sure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cancel::wait_readable;

/// How long processes that were killed may take to end. Longer takes only one that hangs in
/// the kernel, which nobody can end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A process, or what is left of one until its parent has asked for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: i32,
    pub(crate) parent: i32,
    /// When it was started, in clock ticks since the machine was; with the id, it is no other.
    pub(crate) born: u64,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn of(id: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
        // The name before may have anything in it, parentheses and spaces too.
        let after = stat.iter().rposition(|b| *b == b')')?;
        let text = std::str::from_utf8(&stat[after + 1..]).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let born = fields.nth(17)?.parse().ok()?;
        Some(Self { id, parent, born })
    }
}

/// All processes.
pub(crate) fn all() -> Vec<Process> {
    ids().filter_map(Process::of).collect()
}

fn ids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Those whose environment, as they were started with it, has this entry.
pub(crate) fn with_entry(entry: &str) -> BTreeSet<i32> {
    let has = |id: &i32| {
        // Another user's process, or one that has just ended, is none.
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|e| e == entry.as_bytes())
    };
    ids().filter(has).collect()
}

/// Those that are roots or below one; a spared one is not, nor is what is below it.
pub(crate) fn below(
    all: &[Process],
    is_root: impl Fn(&Process) -> bool,
    is_spared: impl Fn(&Process) -> bool,
) -> Vec<Process> {
    let by_id: BTreeMap<i32, &Process> = all.iter().map(|process| (process.id, process)).collect();
    let is_below = |process: &Process| {
        let mut at = Some(process);
        // They were not seen all at the same time, so the way up might be a circle.
        for _ in 0..all.len() {
            match at {
                Some(process) if is_spared(process) => return false,
                Some(process) if is_root(process) => return true,
                Some(process) => at = by_id.get(&process.parent).copied(),
                None => return false,
            }
        }
        false
    };
    all.iter().filter(|process| is_below(process)).copied().collect()
}

/// Kills processes and waits until they have ended, at most until the deadline; says how many
/// were alive and could be killed.
pub(crate) fn kill(victims: &[Process], deadline: Instant) -> usize {
    let mut killed = Vec::new();
    for victim in victims {
        let Some(id) = Pid::from_raw(victim.id) else { continue };
        // Opened before it is looked at again: so it is this very process that gets the signal.
        let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        let is_same = Process::of(victim.id).is_some_and(|now| now.born == victim.born);
        let is_over = matches!(wait_readable([handle.as_fd()], Some(Duration::ZERO)), Ok([true]));
        if is_same && !is_over && pidfd_send_signal(&handle, Signal::KILL).is_ok() {
            killed.push(handle);
        }
    }
    for handle in &killed {
        let left = || deadline.saturating_duration_since(Instant::now());
        while !left().is_zero() && matches!(wait_readable([handle.as_fd()], Some(left())), Ok([false])) {}
    }
    killed.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_parent() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(u32::try_from(own.parent).unwrap(), std::os::unix::process::parent_id());
        assert!(own.born > Process::of(1).unwrap().born);
        assert!(all().contains(&own));
        assert_eq!(Process::of(0), None);
    }

    #[test]
    fn what_is_spared_is_spared_with_all_below_it() {
        let process = |id, parent| Process { id, parent, born: 0 };
        let all = [process(1, 0), process(2, 1), process(3, 2), process(4, 2), process(5, 4), process(9, 9)];
        let ids = |root: i32, spared: i32| {
            let found = below(&all, |p| p.parent == root, |p| p.id == spared);
            found.iter().map(|p| p.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(2, 0), [3, 4, 5]);
        assert_eq!(ids(2, 4), [3]);
        assert_eq!(ids(7, 0), [0; 0]);
    }
}
