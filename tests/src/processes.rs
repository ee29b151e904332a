//! The processes of a fleet, as the system shows them: found by the mark that all of them carry.

use std::fs;

use overseer::{FleetName, LaborId};
use overseer_labor::marker;
use rustix::process::{Pid, Signal, kill_process};

/// One process of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Of which labor.
    pub labor: LaborId,
    /// In which life of it.
    pub generation: u32,
    /// What it is.
    pub role: Role,
    /// Its number.
    pub pid: i32,
}

/// What a process of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The agent.
    Agent,
    /// The plugin host.
    Host,
    /// Something that a plugin has started.
    Other,
}

/// All processes of a fleet, in order of labor.
pub fn of(fleet: &FleetName) -> Vec<Process> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut all: Vec<Process> = pids.filter_map(|pid| read(pid, fleet)).collect();
    all.sort();
    all
}

/// The process of this role in the present life of a labor.
pub fn one(fleet: &FleetName, labor: LaborId, role: Role) -> Option<i32> {
    let all = of(fleet);
    let newest = all.iter().filter(|p| p.labor == labor).map(|p| p.generation).max()?;
    let mut fits = all.iter().filter(|p| p.labor == labor && p.generation == newest && p.role == role);
    fits.next().map(|p| p.pid)
}

/// Whether a process is there and has not ended.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which may hold anything.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Sends a signal; one that has ended already is fine.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn read(pid: i32, fleet: &FleetName) -> Option<Process> {
    let node = String::from_utf8(marker::variable(pid, marker::VARIABLE)?).ok()?;
    let (labor, generation) = node.strip_prefix(&format!("{fleet}/"))?.split_once('/')?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is = |role: &[u8]| command.windows(role.len()).any(|w| w == role);
    let role = if is(b"__overseer\0plugin-host\0") {
        Role::Host
    } else if is(b"__overseer\0labor\0") {
        Role::Agent
    } else {
        Role::Other
    };
    Some(Process { labor: labor.parse().ok()?, generation: generation.parse().ok()?, role, pid })
}
