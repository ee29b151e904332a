//! Every queue of the sources is in the table of queues, with the bound that it has.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "overseer/QUEUES.md";

/// What makes a queue, as the table names it, and how that looks in the code.
const MADE_BY: [(&str, &[&str]); 8] = [
    ("`mpsc::channel`", &["mpsc::channel(", "mpsc::channel::<"]),
    ("`unbounded_channel`", &["unbounded_channel(", "unbounded_channel::<", "mpsc::unbounded("]),
    ("`sync_channel`", &["sync_channel(", "sync_channel::<"]),
    ("`broadcast`", &["broadcast::Sender::new(", "broadcast::channel("]),
    ("`Semaphore::new`", &["Semaphore::new("]),
    ("`VecDeque`", &["VecDeque<"]),
    ("`Actor::spawn`", &["Actor::spawn(", "Actor::spawn_linked("]),
    ("`JoinSet::new`", &["JoinSet::new("]),
];
/// A collection that holds what waits: a field or variable of such a name.
const WAITING: &str = "waiting";
const NAMES_OF_WAITING: [&str; 18] = [
    "waiting",
    "queue",
    "queued",
    "pending",
    "backlog",
    "deferred",
    "held",
    "results",
    "arrived",
    "cancels",
    "callers",
    "drain",
    "terminate",
    "unsent",
    "inbox",
    "mailbox",
    "open",
    "changes",
];
/// What is named so and waits for nothing: keys and changes of a configuration, as they are shown.
const NO_QUEUES: [&str; 3] = [
    "overseer/server/src/client/fleet.rs",
    "overseer/server/src/client/server.rs",
    "overseer/server/src/serve/slot.rs",
];

/// A queue as the table has it.
struct Row {
    line: String,
    file: String,
    made_by: String,
    count: usize,
    bound: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(root().join(TABLE)).unwrap();
    let lines = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| queue |"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 6, "not six cells: {line}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
            let (made_by, count) = cells[2].split_once(" ×").unwrap_or_else(|| panic!("no ×: {line}"));
            Row {
                line: line.to_owned(),
                file: cells[1].trim_matches('`').to_owned(),
                made_by: made_by.to_owned(),
                count: count.parse().unwrap(),
                bound: cells[3].to_owned(),
            }
        })
        .collect()
}

/// A source without its tests and comments.
fn code(path: &Path) -> String {
    let source = fs::read_to_string(path).unwrap();
    let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The sources of all crates, by their path in the repository; none that only tests have.
fn sources() -> BTreeMap<String, String> {
    let (root, mut found) = (root(), BTreeMap::new());
    let mut folders: Vec<PathBuf> = ["overseer", "labor", "adapters"].map(|wing| root.join(wing)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !["tests", "benches"].contains(&name) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs")
                && !["tests.rs", "contract.rs", "speed.rs", "properties.rs"].contains(&name)
                && !name.ends_with("_tests.rs")
            {
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(relative, code(&path));
            }
        }
    }
    found
}

/// Whether a line declares a collection of what waits.
fn declares_waiting(line: &str) -> bool {
    let declared = line.trim().trim_start_matches("let mut ");
    let declared = match declared.strip_prefix("pub") {
        Some(rest) => rest.split_once(") ").map_or(rest.trim(), |(_, rest)| rest),
        None => declared,
    };
    let Some((name, kind)) = declared.split_once(": ") else { return false };
    let kind = kind.split(" = ").next().unwrap_or_default();
    NAMES_OF_WAITING.contains(&name) && ["Map<", "Set<", "Vec<"].iter().any(|holds| kind.contains(holds))
}

fn count(code: &str, made_by: &str) -> usize {
    if made_by == WAITING {
        return code.lines().filter(|line| declares_waiting(line)).count();
    }
    let (_, looks) = MADE_BY.iter().find(|(name, _)| *name == made_by).unwrap();
    let imported = |line: &&str| !line.trim_start().starts_with("use ");
    let lines = code.lines().filter(imported);
    lines.map(|line| looks.iter().map(|look| found(line, look)).sum::<usize>()).sum()
}

/// How often it is there, not counting `try_it` for `it`.
fn found(line: &str, look: &str) -> usize {
    let whole = |at: usize| !line[..at].ends_with(|c: char| c == '_' || c.is_ascii_lowercase());
    line.match_indices(look).filter(|(at, _)| look.starts_with("Actor") || whole(*at)).count()
}

#[test]
fn every_queue_has_a_row_and_every_row_has_its_queue() {
    let (sources, rows) = (sources(), rows());
    let kinds = || MADE_BY.iter().map(|(name, _)| *name).chain([WAITING]);
    let mut in_code = BTreeMap::new();
    let mut in_table: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (file, code) in &sources {
        for kind in kinds() {
            let there = count(code, kind);
            if there > 0 && !(kind == WAITING && NO_QUEUES.contains(&file.as_str())) {
                in_code.insert((file.clone(), kind.to_owned()), there);
            }
        }
    }
    for row in &rows {
        assert!(kinds().any(|kind| kind == row.made_by), "made by nothing that is known: {}", row.line);
        *in_table.entry((row.file.clone(), row.made_by.clone())).or_default() += row.count;
    }
    let without: Vec<_> = in_code.iter().filter(|(key, _)| !in_table.contains_key(key)).collect();
    assert!(without.is_empty(), "no row in {TABLE}: {without:#?}");
    let stale: Vec<_> = in_table.keys().filter(|key| !in_code.contains_key(key)).collect();
    assert!(stale.is_empty(), "in {TABLE}, and not there: {stale:#?}");
    for (key, there) in &in_code {
        assert_eq!(in_table[key], *there, "of {key:?}: so many in {TABLE}, so many in the code");
    }
    assert!(in_code.len() > 40, "only {} were found", in_code.len());
}

#[test]
fn every_bound_has_the_value_that_it_has_in_the_code() {
    let sources = sources();
    let mut checked = 0;
    for Row { line, file, made_by, bound, .. } in rows() {
        let unbounded =
            ["`unbounded_channel`", "`Actor::spawn`", "`JoinSet::new`", WAITING].contains(&&*made_by);
        let by = bound.strip_prefix("by ");
        let mut constants = 0;
        for (at, _) in bound.match_indices("` = ") {
            let name = bound[..at].rsplit('`').next().unwrap();
            let value: String = bound[at + 4..].chars().take_while(char::is_ascii_digit).collect();
            let unit = bound[at + 4 + value.len()..].split([',', ';', '`']).next().unwrap().trim();
            assert!(!unit.is_empty(), "{name} has no unit: {line}");
            let (place, name) = name.split_once(':').unwrap_or((&file, name));
            let code = sources.get(place).unwrap_or_else(|| panic!("no file {place}: {line}"));
            assert_eq!(constant(code, name), Ok(value.parse().unwrap()), "{name} in {place}: {line}");
            constants += 1;
        }
        let literal = bound
            .split('`')
            .find(|part| part.ends_with(')') && made_by.contains(&part[..part.find('(').unwrap_or(0)]));
        if let Some(literal) = literal {
            assert!(sources[&file].contains(literal), "{literal} is not in the code: {line}");
        }
        let says_why = by.is_some_and(|why| why.len() > 20);
        assert!(
            says_why || (constants > 0 && (!unbounded || made_by == WAITING)) || literal.is_some(),
            "nothing bounds it: {line}"
        );
        checked += constants;
    }
    assert!(checked > 40, "only {checked} constants");
}

/// The value of a constant of a source: whole numbers, `+`, `*` and `<<`.
fn constant(code: &str, name: &str) -> Result<u64, String> {
    let declared = format!("const {name}: ");
    let mut rest = code.split(&declared);
    let value = rest.nth(1).and_then(|rest| rest.split(';').next()).and_then(|rest| rest.split_once(" = "));
    let (_, expression) = value.ok_or_else(|| format!("there is no constant {name}"))?;
    match rest.next() {
        None => evaluate(expression),
        Some(_) => Err(format!("{name} is there twice")),
    }
}

fn evaluate(expression: &str) -> Result<u64, String> {
    let expression = expression.trim();
    let overflow = || format!("{expression:?} is too large");
    if let Some((left, right)) = expression.rsplit_once("<<") {
        let (left, right) = (evaluate(left)?, evaluate(right)?);
        let factor =
            u32::try_from(right).ok().and_then(|right| 1u64.checked_shl(right)).ok_or_else(overflow)?;
        return left.checked_mul(factor).ok_or_else(overflow);
    }
    if let Some((left, right)) = expression.rsplit_once('+') {
        return evaluate(left)?.checked_add(evaluate(right)?).ok_or_else(overflow);
    }
    if let Some((left, right)) = expression.rsplit_once('*') {
        return evaluate(left)?.checked_mul(evaluate(right)?).ok_or_else(overflow);
    }
    let digits = expression.replace('_', "");
    digits.parse().map_err(|_| format!("{expression:?} is no number that this test can work out"))
}

#[test]
fn expressions_are_worked_out_and_what_is_none_fails() {
    for (expression, value) in [("7", 7), ("65_536", 65_536), ("64 * 1024", 65_536), ("4 << 20", 4 << 20)] {
        assert_eq!(evaluate(expression), Ok(value));
    }
    assert_eq!(evaluate("1 + 2 * 3 << 1"), Ok(14));
    for wrong in ["", "OTHER", "OTHER / 2", "1 << 99", "size_of::<u8>()"] {
        assert!(evaluate(wrong).is_err(), "{wrong}");
    }
    assert_eq!(constant("const A: usize = 3;", "A"), Ok(3));
    assert!(constant("const A: usize = 3;", "B").is_err());
}

#[test]
fn what_waits_is_seen() {
    for line in [
        "    pub(crate) waiting: HashMap<u64, Call>,",
        "queue: BTreeSet<(u64, Id)>,",
        "let mut waiting: Vec<u8> = x;",
    ] {
        assert!(declares_waiting(line), "{line}");
    }
    for line in ["waiting: usize,", "fn queue(&self) {", "let held: Vec<u8> = x;", "labels: Vec<u8>,"] {
        assert!(!declares_waiting(line), "{line}");
    }
}
