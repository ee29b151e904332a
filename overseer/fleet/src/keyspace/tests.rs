use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

/// What keys begin with, as the code that makes them says it: `format!("PREFIX/{…` and
/// `const KEY: &str = "PREFIX/…`, but for tests.
fn made(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let formatted =
        code.split("format!(\"").skip(1).filter_map(|rest| rest.split_once('{').map(|(head, _)| head));
    let constant = code.split("const KEY: &str = \"").skip(1).filter_map(|rest| rest.split('"').next());
    let is_key = |head: &&str| {
        let first = head.split('/').next().unwrap_or_default();
        head.contains('/')
            && !first.is_empty()
            && head.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'/' | b'-'))
    };
    formatted.chain(constant).filter(is_key)
}

#[test]
fn every_key_that_is_made_has_a_row_and_every_row_has_keys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut used, mut without, mut folders) = (BTreeSet::new(), Vec::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            if entry.is_dir() {
                folders.push(entry);
            } else if !["tests.rs", "contract.rs"].contains(&name.as_str())
                && !entry.components().any(|c| c.as_os_str() == "tests")
            {
                let source = fs::read_to_string(&entry).unwrap();
                for head in made(&source) {
                    match Kind::of(head, &[]) {
                        Some(kind) => drop(used.insert(kind.prefix)),
                        None => without.push(format!("{head} in {}", entry.display())),
                    }
                }
            }
        }
    }
    assert!(without.is_empty(), "keys of no kind in `KINDS`: {without:#?}");
    let all: BTreeSet<_> = KINDS.iter().map(|kind| kind.prefix).collect();
    assert_eq!(used, all, "kinds that nothing makes, or prefixes that are not seen here");
}

#[test]
fn a_key_has_one_kind_and_the_rows_are_in_order() {
    for (one, other) in KINDS.iter().zip(&KINDS[1..]) {
        assert!(one.form.starts_with(one.prefix), "{one:?}");
        // A range over one prefix must not meet keys of another.
        assert!(!other.prefix.starts_with(one.prefix), "{} and {}", one.prefix, other.prefix);
    }
    assert_eq!(Kind::of("tasks-over/farm/x", &[]).map(|kind| kind.name), Some("tasks that are over"));
    assert!(Kind::of("taskz/x", &[]).is_none());
}
