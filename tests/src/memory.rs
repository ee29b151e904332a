//! What a process holds in memory, and what it has used of the processor, as the system shows it.

use std::fs;
use std::io::{Error, Result};

/// Ticks in a second as /proc counts them, on every machine that we run on.
const TICKS: f64 = 100.0;

/// What this process holds now, in bytes.
pub fn of_this_process() -> u64 {
    of(std::process::id()).unwrap().rss
}

/// Bytes that a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Its share of what is shared (PSS), and its own.
    pub pss: u64,
    /// All that is resident (RSS).
    pub rss: u64,
}

/// What a process holds now.
///
/// # Errors
/// It is gone, or another user's.
pub fn of(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
    };
    let memory = of("Pss:").zip(of("Rss:")).map(|(pss, rss)| Memory { pss, rss });
    memory.ok_or_else(|| Error::other("the system does not say what it holds"))
}

/// Seconds of a core that a process has used so far, with its threads and without its children.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which may hold anything, is followed by the state: the third field of all.
    let rest = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |field: usize| rest.split(' ').nth(field - 3)?.parse::<f64>().ok();
    let used = ticks(14).zip(ticks(15)).map(|(user, system)| user + system);
    let used = used.ok_or_else(|| Error::other("the system does not say what it has used"))?;
    Ok(used / TICKS)
}

/// Files, sockets and pipes that a process has open.
///
/// # Errors
/// It is gone, or another user's.
pub fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
