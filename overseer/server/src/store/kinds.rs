//! The kinds of keys that the program adds to those of the library.

use overseer::keyspace::Kind;

use crate::access::tokens;
use crate::audit::log;
use crate::serve::{desired, taken_back};

/// In the order of their prefixes.
pub(super) const KINDS: &[Kind] = &[log::KIND, desired::KIND, taken_back::KIND, tokens::KIND];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use overseer::keyspace;

    use super::*;

    /// What keys begin with, as the code that makes them says it: `format!("PREFIX/{…`.
    fn made(source: &str) -> impl Iterator<Item = &str> {
        let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let heads =
            code.split("format!(\"").skip(1).filter_map(|rest| rest.split_once('{').map(|(head, _)| head));
        heads.filter(|head| {
            let letters = |b: u8| b.is_ascii_lowercase() || matches!(b, b'/' | b'-');
            head.contains('/') && !head.starts_with('/') && head.bytes().all(letters)
        })
    }

    #[test]
    fn every_key_that_is_made_has_a_row_and_every_row_has_keys() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut used = BTreeSet::new();
        let mut folders = ["access", "audit", "serve"].map(|folder| root.join(folder)).to_vec();
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let source = fs::read_to_string(path).unwrap();
                for head in made(&source) {
                    let kind = keyspace::Kind::of(head, KINDS);
                    used.insert(kind.unwrap_or_else(|| panic!("{head} is of no kind")).prefix);
                }
            }
        }
        assert_eq!(used, KINDS.iter().map(|kind| kind.prefix).collect());
    }

    #[test]
    fn a_key_has_one_kind() {
        let all: Vec<_> = keyspace::KINDS.iter().chain(KINDS).collect();
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                let alike = one.prefix.starts_with(other.prefix) || other.prefix.starts_with(one.prefix);
                assert!(!alike, "{} and {}", one.prefix, other.prefix);
            }
        }
        assert!(KINDS.iter().zip(&KINDS[1..]).all(|(one, other)| one.prefix < other.prefix));
    }
}
