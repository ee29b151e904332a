//! What is documented of errors is what there is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Sources of the crates that a library user sees.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let libraries = ["adapters", "labor/agent", "labor/protocol", "labor/release", "overseer/fleet"]
        .map(|crates| root.join(crates));
    let mut directories = libraries.to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                files.push(entry);
            }
        }
    }
    files
}

/// The texts in every `fn code`, but those of causes.
fn codes(source: &str) -> impl Iterator<Item = &str> {
    let bodies = source.split("fn code(&self) -> &'static str {").skip(1);
    bodies.flat_map(|rest| rest.split("\n    }\n").next().unwrap_or_default().split('"').skip(1).step_by(2))
}

#[test]
fn every_code_of_the_library_is_documented_and_every_documented_code_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for file in sources(root).into_iter().filter(|f| !f.ends_with("cause.rs")) {
        let source = fs::read_to_string(file).unwrap();
        found.extend(codes(&source).map(str::to_owned));
    }
    let documented = fs::read_to_string(root.join("overseer/fleet/ERRORS.md")).unwrap();
    let documented: BTreeSet<String> = documented
        .lines()
        .filter_map(|l| Some(l.strip_prefix("| `")?.split('`').next()?.to_owned()))
        .collect();
    let missing: Vec<_> = found.difference(&documented).collect();
    assert!(missing.is_empty(), "not in ERRORS.md: {missing:?}");
    let stale: Vec<_> = documented.difference(&found).collect();
    assert!(stale.is_empty(), "in ERRORS.md, and not there: {stale:?}");
    assert!(found.len() > 100, "only {} codes were found", found.len());
}

/// Each public error of the library has a code: the types in the public modules that are named so.
#[test]
fn every_error_of_the_library_has_a_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in sources(root).into_iter().filter(|f| f.components().any(|c| c.as_os_str() == "src")) {
        let source = fs::read_to_string(&file).unwrap();
        for rest in source.split("thiserror::Error)]").skip(1) {
            let declared =
                rest.lines().find_map(|l| l.strip_prefix("pub enum ").or(l.strip_prefix("pub struct ")));
            let Some(declared) = declared else { continue };
            let name: String = declared.chars().take_while(char::is_ascii_alphanumeric).collect();
            let part_of_another = ["FieldError", "PathFault"].contains(&name.as_str());
            let body = source.split(&format!("impl {name} {{")).nth(1).unwrap_or_default();
            let has = body.split("\n}\n").next().unwrap_or_default().contains("fn code(&self)");
            assert!(has || part_of_another, "{name} in {} has no code()", file.display());
        }
    }
}
