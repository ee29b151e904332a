//! Crates depend one way: the table of the README's "House", held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each crate may use of ours, beside what those use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("overseer-protocol", &[]),
    ("overseer-plugin", &[]),
    ("overseer-release", &["overseer-protocol"]),
    ("overseer-builder", &["overseer-plugin"]),
    ("overseer-labor", &["overseer-protocol", "overseer-release", "overseer-plugin"]),
    ("overseer-placement", &[]),
    ("overseer-adapter", &["overseer-protocol"]),
    ("overseer-adapter-local", &["overseer-adapter", "overseer-labor", "overseer-protocol"]),
    (
        "overseer",
        // The plugin crate for the codecs that both ends speak: typed calls and telemetry.
        &[
            "overseer-protocol",
            "overseer-release",
            "overseer-plugin",
            "overseer-adapter",
            "overseer-adapter-local",
            "overseer-labor",
        ],
    ),
    (
        "overseer-server",
        &[
            "overseer",
            "overseer-builder",
            "overseer-labor",
            "overseer-plugin",
            "overseer-protocol",
            "overseer-release",
        ],
    ),
];

#[test]
fn crates_depend_one_way() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs");
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        let path = package.manifest_path.as_str();
        if path.contains("/tests/") || path.contains("/examples/") {
            continue;
        }
        let name = package.name.as_str();
        let may =
            allowed.get(name).unwrap_or_else(|| panic!("{name} has no line in the table of directions"));
        seen.insert(name);
        let normal = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        for dependency in normal.filter(|d| ours.contains(d.name.as_str())) {
            assert!(may.contains(dependency.name.as_str()), "{name} must not use {}", dependency.name);
        }
    }
    let named: BTreeSet<&str> = allowed.keys().copied().collect();
    assert_eq!(seen, named, "the table names crates that are not there");
}
