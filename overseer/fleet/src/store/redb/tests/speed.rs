use std::time::Instant;

use super::*;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what:<44} median {:>9.1?}  p99 {:>9.1?}  n {}", at(50), at(99), times.len());
}

async fn latency(what: &str, store: &RedbStore, n: usize) {
    let mut times = Vec::new();
    for i in 0..n {
        let started = Instant::now();
        put(store, &format!("labors/farm/{:04}", i % 1000), &"x".repeat(200)).await;
        times.push(started.elapsed());
    }
    report(what, times);
}

async fn throughput(what: &str, store: &Arc<RedbStore>, tasks: usize, each: usize) {
    let started = Instant::now();
    let mut running = Vec::new();
    for task in 0..tasks {
        let store = store.clone();
        running.push(tokio::spawn(async move {
            for i in 0..each {
                put(&store, &format!("labors/farm/{task}/{}", i % 50), &"x".repeat(200)).await;
            }
        }));
    }
    for task in running {
        task.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:<44} {:>9.0} transactions/s", (tasks * each) as f64 / seconds);
}

/// `cargo test --release -p overseer speed -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run it in release mode"]
async fn speed_of_opening_reading_and_writing() {
    let directory = tempfile::tempdir().unwrap();
    let place = |n: usize| directory.path().join(format!("{n}/store.redb"));
    for (name, durability, n) in [("ephemeral", Durability::Ephemeral, 50), ("fsync", Durability::Fsync, 20)]
    {
        let (mut made, mut closed, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..n {
            let _ = std::fs::remove_dir_all(directory.path().join(round.to_string()));
            let started = Instant::now();
            let store = RedbStore::open(place(round), durability).unwrap();
            made.push(started.elapsed());
            put(&store, "a", "1").await;
            let started = Instant::now();
            drop(store);
            closed.push(started.elapsed());
            let started = Instant::now();
            drop(RedbStore::open(place(round), durability).unwrap());
            opened.push(started.elapsed());
        }
        report(&format!("{name}: make a new store"), made);
        report(&format!("{name}: close it"), closed);
        report(&format!("{name}: open and close it again"), opened);
    }
    for (name, durability, n, each) in
        [("ephemeral", Durability::Ephemeral, 5000, 400), ("fsync", Durability::Fsync, 300, 20)]
    {
        let path = directory.path().join(format!("{name}.redb"));
        let store = Arc::new(RedbStore::open(&path, durability).unwrap());
        latency(&format!("{name}: one transaction"), &store, n).await;
        for tasks in [8, 64, 256] {
            throughput(&format!("{name}: {tasks} writers"), &store, tasks, each).await;
        }
        let mut times = Vec::new();
        for i in 0..5000 {
            let started = Instant::now();
            store.get(&format!("labors/farm/{:04}", i % 1000)).await.unwrap();
            times.push(started.elapsed());
        }
        report(&format!("{name}: get"), times);
        let started = Instant::now();
        let (entries, _) = store.range("labors/", None, 1000).await.unwrap();
        println!("{name}: range of {}: {:?}", entries.len(), started.elapsed());
    }
}
