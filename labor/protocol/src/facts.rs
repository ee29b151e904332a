use serde::{Deserialize, Serialize};

use crate::HostId;

/// What an agent says of its machine when it joins and attaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The machine.
    pub host: HostId,
    /// Its name.
    pub hostname: String,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Target triple of the agent, such as `x86_64-unknown-linux-gnu`.
    pub target: String,
    /// Kernel release.
    pub kernel: String,
    /// Logical processors that the agent may use.
    pub cores: u32,
    /// Memory of the machine, in bytes.
    pub memory: u64,
    /// Free bytes where the agent keeps its files.
    pub disk_free: u64,
    /// Version of the agent.
    pub agent_version: String,
    /// Process id of the agent on its machine.
    pub pid: u32,
}
