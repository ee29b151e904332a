use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const ROUNDS: u64 = 20;
const DIRECTORY: &str = "OVERSEER_TEST_CRASH_DIRECTORY";
const DURABILITY: &str = "OVERSEER_TEST_CRASH_FSYNC";

/// Not a test by itself: the process that is killed. Says each write after it was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let durability =
        if std::env::var(DURABILITY).is_ok() { Durability::Fsync } else { Durability::Ephemeral };
    let store = Arc::new(RedbStore::open(Path::new(&directory).join("store.redb"), durability).unwrap());
    let mut writers = Vec::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let key = format!("counter/{writer}");
            let mut count: u64 = value(&store, &key).await.map_or(0, |v| v.parse().unwrap());
            loop {
                count += 1;
                // Two keys in one transaction: after the crash they are equal.
                let transaction = Transaction::new()
                    .put(key.as_str(), count.to_string())
                    .put(format!("twin/{writer}"), count.to_string());
                store.transact(transaction).await.unwrap();
                println!("\nwrote {writer} {count}");
            }
        }));
    }
    // Until it is killed, or a writer fails.
    writers.remove(0).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = [0u64; 4];
    for round in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "store::redb::tests::crash::child_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if round % 2 == 0 {
            command.env(DURABILITY, "1");
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A different moment each time, measured in writes so that a slow machine still writes.
        let (until, mut seen) = (1 + round * 37 % 101, 0);
        let mut hear = |line: String, acknowledged: &mut [u64; 4]| {
            let mut words = line.strip_prefix("wrote ")?.split(' ');
            let (writer, count) = (words.next()?.parse::<usize>().ok()?, words.next()?.parse().ok()?);
            acknowledged[writer] = acknowledged[writer].max(count);
            seen += 1;
            Some(seen)
        };
        while let Some(Ok(line)) = lines.next() {
            if hear(line, &mut acknowledged).is_some_and(|seen| seen >= until) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts too; the last line may be cut off.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        for line in rest.into_iter().rev().skip(1) {
            hear(line, &mut acknowledged);
        }
        let store = RedbStore::open(directory.path().join("store.redb"), Durability::Fsync).unwrap();
        for (writer, count) in acknowledged.iter().enumerate() {
            let stored = value(&store, &format!("counter/{writer}")).await;
            let stored_count: u64 = stored.as_deref().map_or(0, |v| v.parse().unwrap());
            assert!(stored_count >= *count, "round {round}: {stored_count} is stored, {count} was said");
            assert_eq!(value(&store, &format!("twin/{writer}")).await, stored, "round {round}");
        }
    }
    assert!(acknowledged.iter().sum::<u64>() >= ROUNDS);
}
