//! What a test that was killed has left.

use std::path::Path;
use std::process::Command;

use overseer_tests::namespaces::{Network, PREFIX};

#[test]
fn namespaces_of_a_process_that_is_gone_are_removed_by_the_next_one() {
    let Some(own) = Network::lay(1) else { return };
    let mut gone = Command::new("true").spawn().unwrap();
    let left = format!("{PREFIX}{}-0-s", gone.id());
    assert!(gone.wait().unwrap().success());
    assert!(Command::new("ip").args(["netns", "add", &left]).status().unwrap().success());
    let other = Network::lay(1).unwrap();
    assert!(!Path::new("/run/netns").join(&left).exists());
    // Those of one that lives are left alone, and go with it.
    own.heal(0);
    let names = own.names();
    drop((own, other));
    assert!(names.iter().all(|name| !Path::new("/run/netns").join(name).exists()), "{names:?}");
}
