//! The example runs to its end.

use std::process::Command;

#[test]
fn it_runs_and_says_what_it_did() {
    let output = Command::new(env!("CARGO_BIN_EXE_hot_upgrade")).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    for expected in [
        "the fleet runs version 2",
        "version broken was taken back",
        "this version cannot start",
        "version 3 goes on at",
        "and none failed",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}{errors}");
    }
}
