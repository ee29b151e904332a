//! What a plugin has left behind, also when it carries no mark. The agent adopts the orphans
//! below it, so that everything that a host has started stays a descendant of the agent, however
//! it was forked and whatever it did to its environment.
//!
//! When the agent itself is killed, nobody adopts any more: then only the [mark](crate::marker)
//! finds what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use tokio::signal::unix::SignalKind;

/// Set once this process is an agent's own, whose children nobody else looks after.
static ADOPTS: AtomicBool = AtomicBool::new(false);
/// The hosts whose end has not been seen: process id, and when it started. Held while one is
/// spawned and while children are looked at, so that none is taken for an orphan.
static HOSTS: Mutex<BTreeMap<i32, u64>> = Mutex::new(BTreeMap::new());
/// One that forks while it is looked for is found in the next round.
const ROUNDS: usize = 200;
/// A killed process takes a moment to be gone.
const ROUND: Duration = Duration::from_millis(2);
/// Orphans that end by themselves are waited for at most so often.
const REAP: Duration = Duration::from_secs(1);

/// From now on orphans below this process become its children.
///
/// # Errors
/// A kernel that cannot do that.
pub(crate) fn adopt() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    ADOPTS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Starts a host by `spawn`, which gives it and its process id.
pub(crate) fn start_host<T>(spawn: impl FnOnce() -> io::Result<(T, Pid)>) -> io::Result<(T, Pid)> {
    let mut hosts = HOSTS.lock();
    let (host, pid) = spawn()?;
    let pid_number = pid.as_raw_pid();
    // Unknown, it is taken for older than anything, and no orphan is ended on its account.
    hosts.insert(pid_number, read(pid_number).map_or(0, |process| process.start));
    Ok((host, pid))
}

/// A host has ended and was waited for. Ends what it left, in the background.
pub(crate) fn host_ended(pid: Pid) {
    HOSTS.lock().remove(&pid.as_raw_pid());
    if ADOPTS.load(Ordering::Relaxed) {
        tokio::task::spawn_blocking(|| end(&mut |all, hosts| left_by_ended(all, own_pid(), hosts)));
    }
}

/// Ends everything below this agent; for its own end.
pub(crate) fn end_all() {
    if ADOPTS.load(Ordering::Relaxed) {
        end(&mut |all, _| below(all, all.iter().filter(|p| p.parent == own_pid())));
    }
}

/// Waits for orphans that end by themselves, for as long as the agent runs.
pub(crate) async fn reap() {
    if !ADOPTS.load(Ordering::Relaxed) {
        return;
    }
    let Ok(mut ends) = tokio::signal::unix::signal(SignalKind::child()) else { return };
    while ends.recv().await.is_some() {
        let reaping = tokio::task::spawn_blocking(|| {
            let hosts = HOSTS.lock();
            reap_ended(&processes(), &hosts);
        });
        let _ = reaping.await;
        // A flood of short-lived orphans must not keep the agent busy.
        tokio::time::sleep(REAP).await;
    }
}

/// A process as the system shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// In ticks since the system started.
    start: u64,
    /// It has ended and its parent has not waited for it.
    ended: bool,
}

type Choice<'a> = &'a mut dyn FnMut(&[Process], &BTreeMap<i32, u64>) -> Vec<Process>;

/// Kills what `choose` chooses, again and again until there is nothing to kill.
fn end(choose: Choice) {
    for _ in 0..ROUNDS {
        let chosen = {
            let hosts = HOSTS.lock();
            let all = processes();
            reap_ended(&all, &hosts);
            choose(&all, &hosts)
        };
        let killed = chosen.iter().filter(|process| !process.ended && kill(process)).count();
        // What is left then is another user's.
        if killed == 0 {
            return;
        }
        std::thread::sleep(ROUND);
    }
    tracing::error!("processes that a plugin has left do not end");
}

/// Children that no host is and that are older than every host which runs, so that none of those
/// can have started them; and all below them.
fn left_by_ended(all: &[Process], own: i32, hosts: &BTreeMap<i32, u64>) -> Vec<Process> {
    // A host is restarted within one tick of what the last one did; numbers are given in order.
    let oldest = hosts.iter().map(|(pid, start)| (*start, *pid)).min();
    let older = |p: &Process| oldest.is_none_or(|oldest| (p.start, p.pid) < oldest);
    below(all, all.iter().filter(|p| p.parent == own && !hosts.contains_key(&p.pid) && older(p)))
}

/// These processes and all their descendants.
fn below<'a>(all: &[Process], roots: impl Iterator<Item = &'a Process>) -> Vec<Process> {
    let mut found: Vec<Process> = roots.copied().collect();
    let mut seen: BTreeSet<i32> = found.iter().map(|p| p.pid).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|p| p.pid) {
        found.extend(all.iter().filter(|p| p.parent == parent && seen.insert(p.pid)));
        next += 1;
    }
    found
}

/// Waits for children that have ended, but for hosts, which are waited for by whoever started
/// them.
fn reap_ended(all: &[Process], hosts: &BTreeMap<i32, u64>) {
    let own = own_pid();
    for child in all.iter().filter(|p| p.ended && p.parent == own && !hosts.contains_key(&p.pid)) {
        // An error is that it is gone.
        let _ = waitpid(Pid::from_raw(child.pid), WaitOptions::NOHANG);
    }
}

fn kill(process: &Process) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // Held by the descriptor now: if the number was taken over by another, that is younger.
    let same = read(process.pid).is_some_and(|now| now.start == process.start && !now.ended);
    same && pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| read(e.file_name().to_str()?.parse().ok()?)).collect()
}

/// When a process has started that has not ended, in ticks since the system did.
pub(crate) fn started(pid: i32) -> Option<u64> {
    read(pid).filter(|process| !process.ended).map(|process| process.start)
}

fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // Behind the name, which may hold anything, come the third field and those that follow.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, parent, start) = (fields.first()?, fields.get(1)?, fields.get(19)?);
    let ended = state.starts_with(['Z', 'X']);
    Some(Process { pid, parent: parent.parse().ok()?, start: start.parse().ok()?, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: i32 = 10;

    fn process(pid: i32, parent: i32, start: u64) -> Process {
        Process { pid, parent, start, ended: false }
    }

    fn pids(found: Vec<Process>) -> Vec<i32> {
        found.into_iter().map(|p| p.pid).collect()
    }

    #[test]
    fn only_what_no_living_host_can_have_started_is_an_ended_one_s() {
        let all = [
            process(1, 0, 0),
            process(OWN, 1, 5),
            // An orphan of the host before, and a child that it had later.
            process(20, OWN, 7),
            process(21, 20, 90),
            // Another one, started within the same tick as the next host.
            process(29, OWN, 50),
            process(30, OWN, 50),
            process(31, 30, 51),
            // Orphans of the host that runs.
            process(32, OWN, 52),
            process(33, OWN, 50),
            process(40, 1, 6),
        ];
        let hosts = BTreeMap::from([(30, 50)]);
        assert_eq!(pids(left_by_ended(&all, OWN, &hosts)), [20, 29, 21]);
        assert_eq!(pids(left_by_ended(&all, OWN, &BTreeMap::from([(30, 0)]))), Vec::<i32>::new());
        assert_eq!(pids(left_by_ended(&all, OWN, &BTreeMap::new())), [20, 29, 30, 32, 33, 21, 31]);
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let tail = "S 10 30 30 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0";
        for name in ["sleep", "a b) S 1 2", ") ("] {
            assert_eq!(parse(31, &format!("31 ({name}) {tail}")), Some(process(31, 10, 77)));
        }
        assert_eq!(parse(31, "31 (sleep) S 10"), None);
        let own = read(own_pid()).unwrap();
        assert!(own.start > 0 && !own.ended && processes().contains(&own));
    }
}
