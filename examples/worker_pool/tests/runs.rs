//! The example runs to its end.

use std::process::Command;

#[test]
fn it_runs_and_says_what_it_did() {
    let output = Command::new(env!("CARGO_BIN_EXE_worker_pool")).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    for expected in ["1270607 primes below 20000000", "4 labors"] {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}{errors}");
    }
}
