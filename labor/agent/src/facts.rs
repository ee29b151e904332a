//! What the agent says of its machine.

use std::fs;
use std::path::Path;

use overseer_protocol::{Facts, HostId};

/// Reads the machine's facts: a few small files of `/proc` and three system calls, well under a
/// millisecond. What cannot be read is empty or zero; only a hint is lost.
pub(crate) fn gather(directory: &Path) -> Facts {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hostname = text(uname.nodename());
    // Images without a machine id still must not all look like one machine.
    let machine = if machine.trim().is_empty() { hostname.clone() } else { machine };
    Facts {
        host: HostId::derive(&machine, &boot),
        hostname,
        arch: std::env::consts::ARCH.to_owned(),
        target: target(),
        kernel: text(uname.release()),
        cores: rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()),
        memory: fs::read_to_string("/proc/meminfo").ok().and_then(|t| memory_of(&t)).unwrap_or(0),
        disk_free: rustix::fs::statvfs(directory)
            .map_or(0, |v| v.f_bavail.saturating_mul(if v.f_frsize > 0 { v.f_frsize } else { v.f_bsize })),
        agent_version: VERSION.to_owned(),
        pid: std::process::id(),
    }
}

/// Version of this agent.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The target triple that releases must be built for.
pub(crate) fn target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_knows_its_memory_cores_and_disk() {
        let facts = gather(Path::new("/"));
        assert!(facts.cores > 0 && facts.memory > 1 << 20 && facts.disk_free > 0);
        assert_eq!(facts.pid, std::process::id());
        assert_eq!(gather(Path::new("/")).host, facts.host);
    }

    #[test]
    fn a_strange_meminfo_is_no_memory() {
        assert_eq!(memory_of("MemTotal:    16 kB\nMemFree: 1 kB"), Some(16384));
        for bad in ["", "MemTotal:", "MemTotal: x kB", "MemTotal: 5 MB", "MemTotal: 99999999999999999999 kB"]
        {
            assert_eq!(memory_of(bad), None, "{bad}");
        }
    }
}
