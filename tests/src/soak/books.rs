//! Who asks for tasks and calls, and holds what is recorded against what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overseer::TaskId;
use serde::Serialize;
use tokio::task::JoinSet;

use super::faults::Fault;
use super::link::{Killed, Link};
use super::server::{Answer, Ask};
use crate::steps::Random;

/// What a run came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Gives the same faults again, as far as the machine lets it.
    pub seed: u64,
    /// How long the faults went on.
    pub seconds: u64,
    /// Tasks, by their end.
    pub tasks: BTreeMap<String, usize>,
    /// Calls, by their answer.
    pub calls: BTreeMap<String, usize>,
    /// Faults that hit something.
    pub faults: BTreeMap<Fault, usize>,
    /// What must not be. Empty.
    pub violations: Vec<String>,
    /// Processes of labors after the end.
    pub processes_left: usize,
    /// What the server held when all labors were ready for the first time, and at the end, in KiB.
    pub rss_kib: (u64, u64),
    /// Files it had open then.
    pub files: (usize, usize),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, usize>| {
            counts.iter().map(|(what, n)| format!("{what} {n}")).collect::<Vec<_>>().join(", ")
        };
        let faults = self.faults.iter().map(|(fault, n)| format!("{fault:?} {n}")).collect::<Vec<_>>();
        writeln!(f, "{:<16} {}", "seed", self.seed)?;
        writeln!(f, "{:<16} {}", "seconds", self.seconds)?;
        writeln!(f, "{:<16} {}", "tasks", list(&self.tasks))?;
        writeln!(f, "{:<16} {}", "calls", list(&self.calls))?;
        writeln!(f, "{:<16} {}", "faults", faults.join(", "))?;
        writeln!(f, "{:<16} {}", "processes left", self.processes_left)?;
        writeln!(f, "{:<16} {} KiB, then {} KiB", "server RSS", self.rss_kib.0, self.rss_kib.1)?;
        writeln!(f, "{:<16} {}, then {}", "open files", self.files.0, self.files.1)?;
        write!(f, "{:<16} {}", "violations", self.violations.len())?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Clients that ask again and again.
pub(super) struct Books {
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<Task>>,
    calls: JoinSet<Vec<Call>>,
}

struct Shared {
    link: Arc<Link>,
    marks: PathBuf,
    next: AtomicU64,
    over: AtomicBool,
}

struct Task {
    name: String,
    never_twice: bool,
    id: Option<TaskId>,
    end: Answer,
}

struct Call {
    name: String,
    answer: Result<Answer, Killed>,
}

impl Shared {
    fn name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn runs(&self, name: &str) -> usize {
        std::fs::read_to_string(self.marks.join(name)).unwrap_or_default().lines().count()
    }
}

impl Books {
    pub(super) fn open(link: &Arc<Link>, marks: PathBuf, clients: usize, random: &mut Random) -> Self {
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { link: Arc::clone(link), marks, next, over });
        let mut seed = || Random::new(random.bits());
        let tasks = (0..clients).map(|_| give(Arc::clone(&shared), seed())).collect();
        let calls = (0..clients).map(|_| call(Arc::clone(&shared), seed())).collect();
        Self { shared, tasks, calls }
    }

    /// Waits for the end of everything that was asked for, and writes down what came of it.
    pub(super) async fn close(mut self, report: &mut Report) {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut names = BTreeSet::new();
        while let Some(tasks) = self.tasks.join_next().await {
            for task in tasks.unwrap() {
                self.check_task(&task, report);
                names.insert(task.name);
            }
        }
        while let Some(calls) = self.calls.join_next().await {
            calls.unwrap().iter().for_each(|call| self.check_call(call, report));
        }
        self.check_records(&names, report).await;
    }

    fn check_task(&self, task: &Task, report: &mut Report) {
        let Task { name, never_twice, id, end } = task;
        let runs = self.shared.runs(name);
        let code = end.as_ref().map_or_else(|(code, _)| code.as_str(), |_| "done").to_owned();
        let mut wrong = |what: &str| {
            let retry = if *never_twice { "never" } else { "on loss" };
            report
                .violations
                .push(format!("{name} {id:?}: {what}: ran {runs} times, retry {retry}, {end:?}"));
        };
        match code.as_str() {
            "done" if runs == 0 => wrong("a result without its deed"),
            "done" => {}
            "task.lost" | "task.plugin" if *never_twice => {}
            // It was on two hosts that were killed.
            "task.quarantined" => {}
            _ => wrong("nobody asked for that end"),
        }
        if *never_twice && runs > 1 {
            wrong("run again though it must not be");
        }
        *report.tasks.entry(code).or_default() += 1;
    }

    fn check_call(&self, call: &Call, report: &mut Report) {
        let runs = self.shared.runs(&call.name);
        let code = match &call.answer {
            Ok(Ok(_)) => "ok",
            Ok(Err((code, _))) => code,
            Err(Killed) => "server killed",
        };
        if runs > 1 || (code == "ok" && runs == 0) {
            report.violations.push(format!("{}: ran {runs} times: {:?}", call.name, call.answer));
        }
        *report.calls.entry(code.to_owned()).or_default() += 1;
    }

    /// Each task is recorded once, and no other is.
    async fn check_records(&self, names: &BTreeSet<String>, report: &mut Report) {
        let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
        for over in [false, true] {
            let mut after: Option<TaskId> = None;
            loop {
                let page = self.shared.link.ask(&Ask::Tasks { over, after }).await;
                let page: Vec<(String, TaskId)> =
                    serde_json::from_value(page.unwrap_or_default()).unwrap_or_default();
                let Some((_, last)) = page.last() else { break };
                after = Some(*last);
                for (name, _) in page {
                    if !over {
                        report.violations.push(format!("{name} is not over"));
                    }
                    *recorded.entry(name).or_default() += 1;
                }
            }
        }
        for name in names {
            match recorded.remove(name) {
                Some(1) => {}
                records => report.violations.push(format!("{name} is recorded {records:?} times")),
            }
        }
        report.violations.extend(recorded.into_keys().map(|name| format!("nobody gave {name}")));
    }
}

async fn give(shared: Arc<Shared>, mut random: Random) -> Vec<Task> {
    let mut all = Vec::new();
    while !shared.over.load(Ordering::Relaxed) {
        let name = shared.name("task");
        let never_twice = random.below(3) == 0;
        let payload = (shared.marks.join(&name), random.below(200) as u64);
        // Asked again under its key where a server was killed before it answered.
        let given = shared.link.ask(&Ask::Submit { key: name.clone(), never_twice, payload }).await;
        let id = given.as_ref().ok().and_then(|id| serde_json::from_value::<TaskId>(id.clone()).ok());
        let end = match id {
            Some(id) => shared.link.ask(&Ask::Wait(id)).await,
            None => given,
        };
        all.push(Task { name, never_twice, id, end });
    }
    all
}

async fn call(shared: Arc<Shared>, mut random: Random) -> Vec<Call> {
    let mut all = Vec::new();
    while !shared.over.load(Ordering::Relaxed) {
        let name = shared.name("call");
        let payload = (shared.marks.join(&name), random.below(200) as u64);
        let answer = shared.link.once(&Ask::Call { payload }).await;
        all.push(Call { name, answer });
    }
    all
}
