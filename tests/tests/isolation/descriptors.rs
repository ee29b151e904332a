//! What a plugin host inherits: its socket and its pipes.

use std::collections::{BTreeMap, BTreeSet};

use overseer::Isolation;
use overseer_tests::{TestFleet, parts, probes};

use crate::{ask, nobody, none};

/// What this test was itself started with, by whoever did not close it: it is handed on to whatever runs
/// below, for only who opens a descriptor can close it on the way.
fn started_with() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let closes = u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 != 0;
        if let (false, Ok(to)) = (closes, entry.path().read_link()) {
            found.insert(to.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_its_socket_and_pipes_and_its_children_have_not_even_the_socket() {
    let isolated =
        Isolation { user: nobody().filter(|_| parts::has_root()), open_files: Some(256), ..none() };
    for isolation in [none(), isolated] {
        let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
        let (own, child): (BTreeMap<u32, String>, String) = ask(&labor, "descriptors", &()).await;
        let not_ours = started_with();
        let is_foreign = |to: &str| not_ours.contains(to);
        assert_eq!(own[&0], "/dev/null");
        assert!(
            own[&1].starts_with("pipe:") && own[&2].starts_with("pipe:") && own[&1] != own[&2],
            "{own:?}"
        );
        // The socket is there twice, to read and to write apart.
        let rest: Vec<&String> = own.range(3..).map(|(_, to)| to).filter(|to| !is_foreign(to)).collect();
        let sockets: BTreeSet<_> = rest.iter().filter(|to| to.starts_with("socket:")).collect();
        assert_eq!(sockets.len(), 1, "{own:?}");
        let listed = rest.iter().filter(|to| to.starts_with("/proc/")).count();
        let others = rest.len() - rest.iter().filter(|to| to.starts_with("socket:")).count() - listed;
        assert_eq!((others, listed), (0, 1), "{own:?}");
        let of_child: Vec<&str> = child.lines().filter_map(|line| line.split(" -> ").nth(1)).collect();
        let handed_on = |to: &&str| to.starts_with("socket:") && !is_foreign(to);
        assert!(of_child.len() >= 4 && !of_child.iter().any(handed_on), "{child}");
        fleet.end().await;
    }
}
