//! How many processes the kernel has killed because there was no memory.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file in which a group counts those of its processes, be it for its own limit, for one above it or
/// for the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::host) struct Kills(pub(super) PathBuf);

impl Kills {
    #[cfg(test)]
    pub(in crate::host) fn at(path: &std::path::Path) -> Self {
        Self(path.to_owned())
    }

    /// How many by now; the kernel counts before it kills.
    pub(in crate::host) fn count(&self) -> u64 {
        fs::read_to_string(&self.0).map_or(0, |text| kills(&text))
    }
}

/// By a file with a line `oom_kill NUMBER`.
fn kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_for_memory_are_read_from_either_version() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(kills("low 0\nhigh 7\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 1\n"), 0);
        assert_eq!(Kills("/nowhere/memory.events".into()).count(), 0);
    }
}
