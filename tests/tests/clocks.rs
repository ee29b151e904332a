//! Whoever reads the time of day of the system says why: it may jump.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "overseer/CLOCKS.md";
/// Ways to the time of day of the system.
const READS: [&str; 4] = ["SystemTime::now(", "now_utc(", "now_local(", "UNIX_EPOCH.elapsed("];

fn reads_the_clock(path: &Path) -> bool {
    let source = fs::read_to_string(path).unwrap();
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.any(|line| READS.iter().any(|read| line.contains(read)))
}

#[test]
fn every_reader_of_the_clock_has_a_row_and_every_row_its_reader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = ["overseer", "labor", "adapters"].map(|wing| root.join(wing)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let of_tests = ["tests", "benches", "tests.rs"].contains(&name) || name.ends_with("_tests.rs");
            if path.is_dir() && !of_tests {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !of_tests && reads_the_clock(&path) {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let table = fs::read_to_string(root.join(TABLE)).unwrap();
    let rows = table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()));
    let rows: BTreeSet<String> = rows.collect();
    let without: Vec<_> = found.difference(&rows).collect();
    assert!(without.is_empty(), "no row in {TABLE}: {without:?}");
    let stale: Vec<_> = rows.difference(&found).collect();
    assert!(stale.is_empty(), "in {TABLE}, and not there: {stale:?}");
    assert!(found.len() > 5, "{found:?}");
}
