//! What only some machines have. Where it is missing the test is said to be ignored, or fails where
//! `REQUIRE_PARTS` asks for it.

use std::path::{Path, PathBuf};

use overseer_labor::host::try_groups;

/// Whether this process is root.
///
/// # Panics
/// Where it is not, and `REQUIRE_PARTS` asks for it.
pub fn has_root() -> bool {
    rustix::process::geteuid().is_root() || is_ignored("root")
}

/// Whether plugin hosts can have limits that need cgroups.
///
/// # Panics
/// Where they cannot, and `REQUIRE_PARTS` asks for it.
pub fn has_groups() -> bool {
    let missing =
        try_groups().into_iter().find_map(|(key, had)| Some(format!("a limit of {key} ({})", had.err()?)));
    missing.is_none_or(|missing| is_ignored(&missing))
}

fn is_ignored(missing: &str) -> bool {
    assert!(
        std::env::var_os("REQUIRE_PARTS").is_none(),
        "{missing} is missing, which REQUIRE_PARTS asks for"
    );
    eprintln!("ignored: it needs {missing}");
    false
}

/// The cgroups of plugin hosts whose names begin like this, in all hierarchies.
pub fn groups_of(name: &str) -> Vec<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let ours = own.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap().trim_start_matches('/'));
        let mounts = controllers
            .split(',')
            .chain(["unified", "."])
            .map(|mount| Path::new("/sys/fs/cgroup").join(mount));
        mounts.map(|mount| mount.join(path).join("overseer")).collect::<Vec<_>>()
    });
    let mut found: Vec<PathBuf> = ours
        .filter_map(|ours| std::fs::read_dir(ours).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(name))
        .collect();
    found.sort();
    found.dedup();
    found
}
