//! What is documented is what there is.

use std::fs;
use std::path::Path;

#[test]
fn every_error_code_and_event_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let mut codes = 0;
    let mut directories = vec![root.join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            for call in ["Failure::input(", "Failure::fault("] {
                for rest in text.split(call).skip(1) {
                    let Some(code) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next())
                    else {
                        continue;
                    };
                    let family = code.split('.').next().unwrap();
                    let listed = [format!("`{code}`"), format!("`{family}.…`")];
                    assert!(listed.iter().any(|l| readme.contains(l)), "{code} is not in README.md");
                    codes += 1;
                }
            }
        }
    }
    assert!(codes > 10, "{codes}");
    for event in
        ["plan", "warning", "job_started", "step", "log", "job_lost", "job_finished", "finished", "error"]
    {
        assert!(readme.contains(&format!("| `{event}` |")), "{event}");
    }
}

#[test]
fn the_table_of_metrics_is_the_one_in_the_code() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table = overseer::metrics::markdown();
    assert!(readme.contains(&table), "README.md should have this table:\n{table}");
}
