use std::collections::BTreeMap;
use std::fs;
use std::io;

use overseer_adapter::{Node, NodeKey};
use overseer_labor::marker;
use overseer_protocol::FleetName;

/// The nodes of a fleet that have processes of this user, whoever started them, such as the
/// server before this one. A node is called by its agent's process id; where the agent is gone
/// and others are left, by the lowest of theirs, so that somebody ends them.
///
/// # Errors
/// When the system does not show its processes.
pub(crate) fn nodes(fleet: &FleetName) -> io::Result<BTreeMap<NodeKey, Node>> {
    let mut found: BTreeMap<NodeKey, (bool, u32)> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(key) = mark(pid).filter(|key| key.fleet == *fleet) else { continue };
        let candidate = (!is_agent(pid), pid);
        found.entry(key).and_modify(|best| *best = (*best).min(candidate)).or_insert(candidate);
    }
    let node = |(key, (_, pid)): (NodeKey, (bool, u32))| (key.clone(), node(key, pid));
    Ok(found.into_iter().map(node).collect())
}

/// A node as it is called by its agent's process id.
pub(crate) fn node(key: NodeKey, pid: u32) -> Node {
    Node { key, provider_id: format!("pid {pid}") }
}

/// Of which node a process is. None for another user's, or one that has just ended.
fn mark(pid: u32) -> Option<NodeKey> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let start = format!("{}=", marker::VARIABLE);
    let mark = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(start.as_bytes()))?;
    std::str::from_utf8(mark).ok()?.parse().ok()
}

fn is_agent(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|b| *b == 0).skip(1);
    arguments.next() == Some(b"__overseer") && arguments.next() == Some(b"labor")
}
