//! The soak, for a moment: faults of every kind under load leave the books right.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn nothing_is_lost_or_doubled_while_everything_is_killed_and_cut() {
    let ran = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--seconds", "15", "--labors", "6", "--json"])
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    println!("{said}");
    assert!(ran.status.success(), "{said}\n{log}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(report["tasks"]["done"].as_u64() > Some(0) && report["calls"]["ok"].as_u64() > Some(0));
    let faults = report["faults"].as_object().unwrap();
    assert!(!faults.is_empty(), "nothing was done to it");
    assert_eq!((report["violations"].as_array().unwrap().len(), &report["processes_left"]), (0, &0.into()));
}
