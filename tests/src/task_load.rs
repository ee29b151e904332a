//! Durable tasks that leave a mark in the world, so that what is recorded can be held against what
//! happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use overseer::{FleetHandle, Retry, Task, TaskError, TaskOptions};
use tokio::task::JoinSet;

use crate::steps::Random;

/// Clients that submit a task, wait for its end, and submit the next. Every third task must never
/// run twice.
pub struct TaskLoad {
    shared: Arc<Shared>,
    clients: JoinSet<Vec<Given>>,
}

struct Shared {
    fleet: FleetHandle,
    marks: tempfile::TempDir,
    next: AtomicU64,
    ended: AtomicUsize,
    over: AtomicBool,
}

/// A task that was acknowledged, and its end.
struct Given {
    number: u64,
    task: Task,
    never_twice: bool,
    end: Result<(), TaskError>,
}

impl Shared {
    fn mark(&self, number: u64) -> PathBuf {
        self.marks.path().join(number.to_string())
    }
}

impl TaskLoad {
    /// So many clients.
    pub fn start(fleet: &FleetHandle, clients: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            fleet: fleet.clone(),
            marks: tempfile::tempdir().unwrap(),
            next: AtomicU64::new(0),
            ended: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let client = |n| submit_on(Arc::clone(&shared), Random::new(seed ^ n as u64));
        let clients = (0..clients).map(client).collect();
        Self { shared, clients }
    }

    /// Tasks that are over.
    pub fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Waits for the end of every task, and holds what is recorded against what happened. How many
    /// there were, by their end.
    ///
    /// # Panics
    /// When what is recorded is not the truth.
    pub async fn finish(mut self) -> BTreeMap<String, usize> {
        self.shared.over.store(true, Ordering::SeqCst);
        let mut given = Vec::new();
        while let Some(done) = self.clients.join_next().await {
            given.extend(done.unwrap());
        }
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        for Given { number, task, never_twice, end } in &given {
            let mark = std::fs::read_to_string(self.shared.mark(*number)).unwrap_or_default();
            let runs = mark.lines().count();
            let record = task.record().await.unwrap();
            assert!(record.is_over(), "{record:?}");
            match end {
                Ok(()) => assert!(runs >= 1, "task {number} has a result and never ran: {record:?}"),
                // One that must not run twice may be lost, and nothing else may go wrong with it.
                Err(TaskError::Failed(_)) if *never_twice => {}
                Err(error) => panic!("task {number}: {error}"),
            }
            if *never_twice {
                assert!(runs <= 1, "task {number} ran {runs} times: {record:?}");
            }
            let end = end.as_ref().map_or_else(|error| error.code(), |()| "done");
            *ends.entry(end.to_owned()).or_default() += 1;
        }
        ends
    }
}

async fn submit_on(shared: Arc<Shared>, mut random: Random) -> Vec<Given> {
    let mut all = Vec::new();
    while !shared.over.load(Ordering::SeqCst) {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let payload = serde_json::to_vec(&(shared.mark(number), random.below(100))).unwrap();
        let never_twice = number.is_multiple_of(3);
        let retry = if never_twice { Retry::never() } else { Retry::default() };
        let options = TaskOptions::default().retry(retry);
        let task = shared.fleet.submit_bytes("mark", payload, options).await.unwrap();
        let end = task.result_bytes().await.map(drop);
        shared.ended.fetch_add(1, Ordering::SeqCst);
        all.push(Given { number, task, never_twice, end });
    }
    all
}
