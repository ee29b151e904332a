//! When the Overseer's own process is killed.

use std::process::Stdio;

use overseer::FleetName;
use overseer_tests::{eventually, processes, within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_an_overseer_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut owner = Command::new(env!("CARGO_BIN_EXE_owner"))
        .arg(directory.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(owner.stdout.take().unwrap()).lines();
    let line = within("four labors get ready", said.next_line()).await.unwrap().expect("it says so");
    let fleet: FleetName = line.strip_prefix("ready ").expect("its fleet's name").parse().unwrap();
    // One that is just becoming another program shows no environment for a moment.
    eventually("four agents, four hosts, a child and a daemon of a plugin", async || {
        let alive = processes::of(&fleet);
        let count = |role| alive.iter().filter(|p| p.role == role).count();
        let counts = [processes::Role::Agent, processes::Role::Host, processes::Role::Other].map(count);
        (counts == [4, 4, 2]).then_some(())
    })
    .await;
    owner.kill().await.unwrap();
    eventually("no process is left", async || processes::of(&fleet).is_empty().then_some(())).await;
}
