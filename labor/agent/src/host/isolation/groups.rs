//! The cgroups of one plugin host.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overseer_protocol::Isolation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::hierarchy::{Controller, Parent, System, Version, pass_on};
use super::kills::Kills;
use crate::orphans;

/// Below the group of the agent; in it a group for each host.
const OURS: &str = "overseer";
/// Microseconds over which time of processors is counted.
const CPU_PERIOD: u64 = 100_000;
/// A killed process takes a moment to be gone, and one that forks is found in the next round.
const ROUNDS: usize = 500;
const ROUND: Duration = Duration::from_millis(2);
/// Another agent may remove the directory of them all when it has just become empty.
const TRIES: usize = 8;

/// A limit that the machine does not hold, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) controller: Controller,
    pub(super) why: String,
}

/// The groups of a host, ended with all that is in them when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    version: Version,
    directory: PathBuf,
    /// It counts who was killed for memory.
    memory: bool,
}

impl Groups {
    /// Makes them, for a host of this name; also one for memory that has no limit, which tells who was
    /// killed for it.
    pub(super) fn make(name: &str, isolation: &Isolation) -> (Self, Vec<Missing>) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut groups = Self::default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}.{number}.{}", owner());
        let system = System::read();
        let mut missing = Vec::new();
        for controller in Controller::ALL {
            let limit = limit_of(isolation, controller);
            if limit.is_none() && controller != Controller::Memory {
                continue;
            }
            let made = match &system {
                Ok(system) => groups.limit(system, &name, controller, limit),
                Err(error) => Err(format!("/proc cannot be read: {error}")),
            };
            if let (Err(why), Some(_)) = (made, limit) {
                missing.push(Missing { controller, why });
            }
        }
        (groups, missing)
    }

    fn limit(
        &mut self,
        system: &System,
        name: &str,
        controller: Controller,
        limit: Option<u64>,
    ) -> Result<(), String> {
        let parent = parent(system, controller)?;
        let (version, ours) = (parent.version, parent.directory.join(OURS));
        let directory = ours.join(name);
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                format!(
                    "groups cannot be made in {}: {error}; run the agent as root",
                    parent.directory.display()
                )
            }
            _ => format!("{}: {error}", directory.display()),
        };
        if !self.groups.iter().any(|group| group.directory == directory) {
            make_directory(&ours, &directory).map_err(failed)?;
            self.groups.push(Group { version, directory: directory.clone(), memory: false });
        }
        if version == Version::Two {
            pass_on(&ours, controller.name()).map_err(failed)?;
        }
        if let Some(limit) = limit {
            set(version, &directory, controller, limit).map_err(failed)?;
        }
        if controller == Controller::Memory {
            self.groups.iter_mut().filter(|g| g.directory == directory).for_each(|g| g.memory = true);
        }
        Ok(())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The files into which a process writes itself to be in the groups.
    pub(super) fn entries(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.directory.join("cgroup.procs")).collect()
    }

    /// What tells who of them was killed for memory; none where no group counts that.
    pub(super) fn kills(&self) -> Option<Kills> {
        let group = self.groups.iter().find(|group| group.memory)?;
        let file = match group.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        Some(Kills(group.directory.join(file)))
    }

    /// How many processes of theirs the kernel has killed because there was no memory.
    pub(crate) fn killed_for_memory(&self) -> u64 {
        self.kills().map_or(0, |kills| kills.count())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.groups {
            if let Err(error) = group.end() {
                tracing::warn!("the cgroup {} is left: {error}", group.directory.display());
            }
        }
    }
}

impl Group {
    /// Kills what is in it, and removes it.
    fn end(&self) -> io::Result<()> {
        for round in 0.. {
            match remove(&self.directory) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy && round < ROUNDS => {}
                done => return done,
            }
            // It is not there before Linux 5.14, nor in version 1.
            if fs::write(self.directory.join("cgroup.kill"), "1").is_err() {
                self.processes().into_iter().for_each(|pid| self.kill(pid));
            }
            std::thread::sleep(ROUND);
        }
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn kill(&self, pid: i32) {
        let Some(process) = Pid::from_raw(pid) else { return };
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return };
        // Held by the descriptor now: if the number was taken over by another, that is not in here.
        if self.processes().contains(&pid) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

/// Ends the groups of agents that are gone and could not do so themselves, with all that is left in them:
/// also what carries no [mark](crate::marker) is found by that. Blocks for as long as that takes.
pub fn end_stale_groups() {
    let (Ok(system), Some(namespace)) = (System::read(), namespace()) else { return };
    for controller in Controller::ALL {
        let Some(Parent { version, directory: own, .. }) = system.parent(controller.name()) else { continue };
        for parent in [Some(&*own), own.parent()].into_iter().flatten() {
            let Ok(entries) = fs::read_dir(parent.join(OURS)) else { continue };
            let stale =
                entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| is_stale(n, namespace)));
            // Those that it could not end say so.
            drop(Groups {
                groups: stale.map(|e| Group { version, directory: e.path(), memory: false }).collect(),
            });
        }
    }
}

/// Tries which limits that need cgroups can be had on this machine, and by whom we are on it: the key of
/// each in an isolation, and what is in the way. Leaves nothing behind.
pub fn try_groups() -> Vec<(&'static str, Result<(), String>)> {
    let tried = Controller::ALL.map(|controller| {
        let mut isolation = Isolation::default();
        match controller {
            Controller::Memory => isolation.memory = Some(Isolation::LEAST_MEMORY),
            Controller::Cpu => isolation.cpu_milli = Some(Isolation::LEAST_CPU_MILLI),
            Controller::Processes => isolation.processes = Some(Isolation::LEAST_PROCESSES),
        }
        let (_, missing) = Groups::make("probe", &isolation);
        let had = missing.into_iter().next().map_or(Ok(()), |missing| Err(missing.why));
        (controller.key(), had)
    });
    tried.into()
}

fn limit_of(isolation: &Isolation, controller: Controller) -> Option<u64> {
    match controller {
        Controller::Memory => isolation.memory,
        Controller::Cpu => isolation.cpu_milli.map(u64::from),
        Controller::Processes => isolation.processes.map(u64::from),
    }
}

fn parent(system: &System, controller: Controller) -> Result<Parent, String> {
    let name = controller.name();
    let none = || format!("this machine has no cgroups with {name}; mount them at /sys/fs/cgroup");
    system.parent(name).ok_or_else(none)?.with(name)
}

fn set(version: Version, directory: &Path, controller: Controller, limit: u64) -> io::Result<()> {
    let write = |file: &str, value: String| fs::write(directory.join(file), value);
    let quota = || limit.saturating_mul(CPU_PERIOD) / 1000;
    match (version, controller) {
        (Version::One, Controller::Memory) => {
            write("memory.limit_in_bytes", limit.to_string())?;
            // It is not there where the kernel does not count swap by group.
            unless_absent(write("memory.memsw.limit_in_bytes", limit.to_string()))
        }
        (Version::Two, Controller::Memory) => {
            write("memory.max", limit.to_string())?;
            unless_absent(write("memory.swap.max", "0".into()))
        }
        (Version::One, Controller::Cpu) => {
            write("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
            write("cpu.cfs_quota_us", quota().to_string())
        }
        (Version::Two, Controller::Cpu) => write("cpu.max", format!("{} {CPU_PERIOD}", quota())),
        (_, Controller::Processes) => write("pids.max", limit.to_string()),
    }
}

/// A file of cgroups cannot be made, so to write one that is not there is not permitted.
fn unless_absent(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(()),
        written => written,
    }
}

fn make_directory(ours: &Path, directory: &Path) -> io::Result<()> {
    let mut made = Ok(());
    for _ in 0..TRIES {
        match fs::create_dir(ours) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        made = fs::create_dir(directory);
        if !made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    made
}

/// Removes a group, and the one of all where it was the last.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(ours) = directory.parent() {
        // It stays while others have groups in it.
        let _ = fs::remove_dir(ours);
    }
    Ok(())
}

/// The namespace in which numbers of processes are what they are to us.
fn namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// This process, in a way in which no other is called: its number, when it started, and where it is that.
fn owner() -> String {
    let pid = rustix::process::getpid().as_raw_pid();
    format!("{pid}-{}-{}", orphans::started(pid).unwrap_or(0), namespace().unwrap_or(0))
}

/// Whether a group is of a process that is gone. What is not called as ours are, or is of another
/// namespace, is nobody's business.
fn is_stale(name: &str, namespace: u64) -> bool {
    let owner = name.rsplit_once('.').map_or("", |(_, owner)| owner);
    let mut numbers = owner.split('-').map(|number| number.parse::<u64>().ok());
    match [numbers.next(), numbers.next(), numbers.next(), numbers.next()].map(Option::flatten) {
        [Some(pid), Some(start), Some(of), None] if of == namespace => {
            i32::try_from(pid).is_ok_and(|pid| orphans::started(pid) != Some(start))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_stale_when_its_process_is_gone() {
        let (own, here) = (owner(), namespace().unwrap());
        assert!(!is_stale(&format!("l-1.0.{own}"), here));
        let [pid, start, _] = own.split('-').map(|n| n.parse().unwrap()).collect::<Vec<u64>>()[..] else {
            panic!("{own}")
        };
        // The same number, taken over.
        assert!(is_stale(&format!("l-1.0.{pid}-{}-{here}", start + 1), here));
        assert!(is_stale(&format!("l-1.0.2147483647-5-{here}"), here));
        // Elsewhere the number may be anybody's.
        assert!(!is_stale(&format!("l-1.0.2147483647-5-{}", here + 1), here));
        for foreign in ["", "init.scope", "l-1", "l.1-", "x.y-z", "l-1.0.5-5", "l-1.0.5-5-5-5"] {
            assert!(!is_stale(foreign, here), "{foreign}");
        }
    }

    #[test]
    fn a_group_of_version_two_ends_with_all_that_is_in_it() {
        let parent = System::read().unwrap().of_version_two();
        let ours =
            parent.map(|parent| parent.directory.join(format!("overseer-test-{}", std::process::id())));
        let Some(directory) = ours.filter(|ours| fs::create_dir(ours).is_ok()) else {
            assert!(std::env::var_os("REQUIRE_PARTS").is_none(), "a group of version 2 cannot be made");
            return eprintln!("ignored: it needs cgroups of version 2, and root");
        };
        let groups = Groups { groups: vec![Group { version: Version::Two, directory, memory: true }] };
        // It starts nothing before it is in the group.
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "read go; sleep 3600 & sleep 3600"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        fs::write(&groups.entries()[0], shell.id().to_string()).unwrap();
        drop(shell.stdin.take());
        assert!(groups.groups[0].processes().contains(&shell.id().cast_signed()));
        assert_eq!(groups.killed_for_memory(), 0);
        let directory = groups.groups[0].directory.clone();
        drop(groups);
        assert!(!directory.exists());
        assert!(!shell.wait().unwrap().success());
    }
}
