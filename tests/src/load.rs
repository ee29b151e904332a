//! Calls that leave a mark in the world, so that an answer can be held against what happened.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::PATIENCE;
use overseer::{CallError, CallErrorCode, CallOptions, FleetHandle};
use tokio::task::JoinSet;

use crate::steps::Random;

/// Callers that call again and again.
pub struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<Vec<(u64, Result<(), CallError>)>>,
}

struct Shared {
    fleet: FleetHandle,
    marks: tempfile::TempDir,
    next: AtomicU64,
    in_flight: AtomicUsize,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Shared {
    fn mark(&self, call: u64) -> PathBuf {
        self.marks.path().join(call.to_string())
    }
}

impl Load {
    /// So many of them.
    pub fn start(fleet: &FleetHandle, callers: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            fleet: fleet.clone(),
            marks: tempfile::tempdir().unwrap(),
            next: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let caller = |n| call_on(Arc::clone(&shared), Random::new(seed ^ n as u64));
        let callers = (0..callers).map(caller).collect();
        Self { shared, callers }
    }

    /// Calls that wait for their answer.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Calls that have theirs.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Lets every caller get its last answer.
    pub async fn finish(mut self) -> Report {
        self.shared.over.store(true, Ordering::SeqCst);
        let mut answers = BTreeMap::new();
        let mut twice = 0;
        while let Some(done) = self.callers.join_next().await {
            for (call, answer) in done.unwrap() {
                twice += usize::from(answers.insert(call, answer).is_some());
            }
        }
        assert_eq!(twice, 0, "a call was answered twice");
        let asked = self.shared.next.load(Ordering::SeqCst);
        assert!(answers.keys().copied().eq(0..asked), "a call was not answered");
        let runs =
            |call: u64| std::fs::read_to_string(self.shared.mark(call)).unwrap_or_default().lines().count();
        Report { answers: answers.into_iter().map(|(call, answer)| (answer, runs(call))).collect() }
    }
}

async fn call_on(shared: Arc<Shared>, mut random: Random) -> Vec<(u64, Result<(), CallError>)> {
    let mut answers = Vec::new();
    let options = CallOptions::default().queue(PATIENCE);
    while !shared.over.load(Ordering::SeqCst) {
        let call = shared.next.fetch_add(1, Ordering::SeqCst);
        let argument = serde_json::to_vec(&(shared.mark(call), random.below(100))).unwrap();
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = shared.fleet.call_bytes("mark", argument, options).await;
        shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        shared.answered.fetch_add(1, Ordering::SeqCst);
        answers.push((call, answer.map(drop)));
    }
    answers
}

/// Each call's answer, and how often it ran.
pub struct Report {
    answers: Vec<(Result<(), CallError>, usize)>,
}

impl Report {
    /// # Panics
    /// When an answer is not the truth.
    pub fn check(&self) {
        for (answer, runs) in &self.answers {
            assert!(*runs <= 1, "a call ran {runs} times: {answer:?}");
            match answer {
                Ok(()) => assert_eq!(*runs, 1, "an answer without its deed"),
                // It may have run or not, as the error says.
                Err(CallError::LaborLost { .. }) => {}
                Err(CallError::Answered { code: CallErrorCode::HostEnded, .. }) => {}
                // Refused, so it must not have run.
                Err(CallError::Answered {
                    code: CallErrorCode::Draining | CallErrorCode::NotReady, ..
                }) => assert_eq!(*runs, 0, "a refusal with a deed: {answer:?}"),
                Err(other) => panic!("nobody asked for that: {other}"),
            }
        }
        assert!(self.answers.iter().any(|(answer, _)| answer.is_ok()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (answer, runs) in &self.answers {
            let kind = match answer {
                Ok(()) => "ok".to_owned(),
                Err(CallError::Answered { code, .. }) => code.to_string(),
                Err(other) => other.code().to_owned(),
            };
            let (count, ran) = kinds.entry(kind).or_default();
            *count += 1;
            *ran += runs;
        }
        write!(f, "{} calls:", self.answers.len())?;
        kinds.iter().try_for_each(|(kind, (count, ran))| write!(f, " {kind} {count} (ran {ran})"))
    }
}
