//! Cases from elsewhere, run against this crate: `$CONFORMANCE_DIR/placement/strategy_*.json`.
//!
//! `CONFORMANCE_DIR=… cargo test -p overseer-placement --test conformance`. Cases are read by their
//! fields; a universal one that does not hold fails the run. Without the directory nothing is tested, which
//! is said.

mod case;

use std::path::PathBuf;
use std::process::ExitCode;

use self::case::Kind;

fn main() -> ExitCode {
    let Some(directory) = std::env::var_os("CONFORMANCE_DIR").map(PathBuf::from) else {
        println!("test conformance ... ignored, CONFORMANCE_DIR is not set");
        return ExitCode::SUCCESS;
    };
    let cases = match case::read(&directory.join("placement")) {
        Ok(cases) => cases,
        Err(error) => {
            println!("test conformance ... FAILED: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut differ, mut failed) = ([0, 0], Vec::new(), false);
    for case in &cases {
        match (case.holds(), case.kind) {
            (Ok(()), kind) => passed[usize::from(kind == Kind::Specific)] += 1,
            (Err(why), kind) => {
                failed |= kind == Kind::Universal;
                differ.push(format!("{} ({}): {why}", case.id, kind.name()));
            }
        }
    }
    differ.iter().for_each(|line| println!("differs: {line}"));
    println!(
        "{} universal passed, {} implementation-specific passed, {} differ",
        passed[0],
        passed[1],
        differ.len()
    );
    if failed || cases.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
