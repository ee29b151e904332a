use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use overseer_adapter::{Node, NodeKey};
use overseer_labor::marker;
use overseer_protocol::FleetName;

/// The variable that tells the directory of an agent to the process that comes after this one. As all
/// that is told of an agent, it is in its environment and in its arguments.
pub(crate) const DIRECTORY: &str = "OVERSEER_NODE_DIRECTORY";

/// The variable that tells whose node it is.
pub(crate) const OWNER: &str = "OVERSEER_NODE_OWNER";

/// The nodes of a fleet that have processes of this user, whoever started them, such as the
/// server before this one. A node is called by its agent's process id; where the agent is gone
/// and others are left, by the lowest of theirs, so that somebody ends them.
///
/// # Errors
/// When the system does not show its processes.
pub(crate) fn nodes(fleet: &FleetName) -> io::Result<BTreeMap<NodeKey, Node>> {
    let mut found: BTreeMap<NodeKey, (bool, u32)> = BTreeMap::new();
    for pid in processes()? {
        let Some(key) = mark(pid).filter(|key| key.fleet == *fleet) else { continue };
        let candidate = (!is_agent(pid), pid);
        found.entry(key).and_modify(|best| *best = (*best).min(candidate)).or_insert(candidate);
    }
    let owner = |pid| variable(pid, OWNER).and_then(|owner| String::from_utf8(owner).ok());
    let node = |(key, (_, pid)): (NodeKey, (bool, u32))| (key.clone(), node(key, pid, owner(pid)));
    Ok(found.into_iter().map(node).collect())
}

/// Every node that has a process of this user.
///
/// # Errors
/// When the system does not show its processes.
pub(crate) fn marked() -> io::Result<BTreeSet<NodeKey>> {
    Ok(processes()?.into_iter().filter_map(mark).collect())
}

fn processes() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// The process id that a node is called by.
pub(crate) fn pid(node: &Node) -> Option<u32> {
    node.provider_id.strip_prefix("pid ")?.parse().ok()
}

/// The directory of an agent, if that process is the agent of this node and has one; the outer
/// None for any other process.
pub(crate) fn directory_of_agent(pid: u32, key: &NodeKey) -> Option<Option<PathBuf>> {
    let agent = mark(pid).as_ref() == Some(key) && is_agent(pid);
    agent.then(|| variable(pid, DIRECTORY).map(|path| PathBuf::from(OsString::from_vec(path))))
}

/// A node as it is called by its agent's process id.
pub(crate) fn node(key: NodeKey, pid: u32, owner: Option<String>) -> Node {
    Node { owner, ..Node::new(key, format!("pid {pid}")) }
}

/// Of which node a process is. None for another user's, or one that has just ended.
fn mark(pid: u32) -> Option<NodeKey> {
    String::from_utf8(variable(pid, marker::VARIABLE)?).ok()?.parse().ok()
}

fn variable(pid: u32, name: &str) -> Option<Vec<u8>> {
    marker::variable(i32::try_from(pid).ok()?, name)
}

fn is_agent(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|b| *b == 0).skip(1);
    arguments.next() == Some(b"__overseer") && arguments.next() == Some(b"labor")
}
