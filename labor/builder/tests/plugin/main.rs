//! The builder as a plugin in a process of its own: it adopts what steps leave behind, and kills
//! at the end of a job what it has not started itself. So these tests run one at a time, and
//! start nothing beside a job.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../builds/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use harness::{Labor, Repo, passed};
use overseer_builder::Builder;
use overseer_builder::api::{FailureReason, JobReport, RunOutcome, RunRequest};
use overseer_plugin::{ErrorKind, Plugin};

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shell commands that start orphans without mark, group and parent, one of which forks again,
/// and wait until all of them have written their ids.
const ORPHANS: &str = "
    env -i PIDS=$PIDS setsid sh -c 'echo $$ >> $PIDS; sleep 1000; true' &
    (env -i PIDS=$PIDS setsid sh -c 'env -i PIDS=$PIDS setsid sh -c \"echo \\$\\$ >> $PIDS; exec sleep 1000\" &' &)
    until test \"$(wc -l < $PIDS)\" = 2; do :; done";

/// A job on a machine whose builder is a plugin.
struct Plugged {
    labor: Labor,
    builder: Builder,
    request: RunRequest,
    pids: PathBuf,
    _repo: Repo,
}

impl Plugged {
    fn new(steps: &[String]) -> Self {
        let repo = Repo::with("[jobs.a]\nsteps = [\"true\"]\n", &[]);
        let labor = Labor::new();
        let builder = Builder::start(&labor.recorder.start_context()).unwrap();
        let plan = labor.plan(repo.source(), None);
        let mut request = labor.request(&repo.source(), &plan, 0);
        let pids = repo.beside("pids");
        std::fs::write(&pids, "").unwrap();
        request.job.env.insert("PIDS".into(), pids.display().to_string());
        request.job.steps = steps.to_vec();
        Self { labor, builder, request, pids, _repo: repo }
    }

    fn run(&self) -> JobReport {
        overseer_builder::run(&self.request, &self.labor.call().context).unwrap()
    }

    fn orphans(&self) -> Vec<String> {
        std::fs::read_to_string(&self.pids).unwrap().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_none_left(&self) {
        let orphans = self.orphans();
        assert_eq!(orphans.len(), 2);
        let left: Vec<_> = orphans.iter().filter(|pid| Path::new("/proc").join(pid).exists()).collect();
        for pid in &left {
            std::process::Command::new("kill").args(["-KILL", pid]).status().unwrap();
        }
        assert!(left.is_empty(), "{left:?} of {orphans:?}");
    }
}

#[test]
fn the_plugins_methods_speak_json() {
    let _turn = turn();
    let repo = Repo::with("[jobs.a]\nsteps = [\"echo hi\"]\n", &[]);
    let labor = Labor::new();
    let builder = overseer_builder::Builder::start(&labor.recorder.start_context()).unwrap();
    let call = |method: &str, payload: serde_json::Value| {
        let result = builder.call(&labor.call().context, method, payload.to_string().as_bytes());
        result.map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
    };
    let source = serde_json::json!({ "path": repo.root });
    let plan = call("plan", serde_json::json!({ "source": source, "cache_dir": labor.cache() })).unwrap();
    let plan = &plan["planned"];
    let request = serde_json::json!({
        "source": source,
        "commit": plan["commit"],
        "job": plan["plan"]["jobs"][0],
        "cache_dir": labor.cache(),
    });
    let report = call("run", request).unwrap();
    assert_eq!(report["outcome"]["outcome"], "passed", "{report}");
    let kind = |result: Result<serde_json::Value, overseer_plugin::PluginError>| result.unwrap_err().kind;
    assert_eq!(kind(call("plan", serde_json::json!({ "source": { "path": "x" } }))), ErrorKind::BadPayload);
    assert_eq!(kind(call("plan", serde_json::json!({}))), ErrorKind::BadPayload);
    // What is asked for wrongly is told from what the machine cannot do.
    assert_eq!(kind(call("plan", serde_json::json!({ "source": { "path": "/" } }))), ErrorKind::BadPayload);
    let gone = serde_json::json!({ "source": { "url": "http://127.0.0.1:1/x" }, "cache_dir": labor.cache() });
    assert_eq!(kind(call("plan", gone)), ErrorKind::NoMethod);
    assert_eq!(kind(call("destroy", serde_json::json!({}))), ErrorKind::NoMethod);
}

#[test]
fn orphans_without_a_mark_end_with_the_job() {
    let _turn = turn();
    let plugged = Plugged::new(&[ORPHANS.into(), "kill -0 $(cat $PIDS)".into()]);
    passed(&plugged.run());
    plugged.assert_none_left();
}

#[test]
fn orphans_end_when_the_job_is_too_slow() {
    let _turn = turn();
    let mut plugged = Plugged::new(&[format!("{ORPHANS}\nexec env -i setsid sleep 1000")]);
    plugged.request.job.timeout_ms = 2000;
    let RunOutcome::Failed(failure) = plugged.run().outcome else { panic!("it passed") };
    assert_eq!(failure.reason, FailureReason::Timeout { after_ms: 2000 });
    plugged.assert_none_left();
}

#[test]
fn a_builder_that_stops_has_ended_its_cancelled_jobs_and_their_orphans() {
    let _turn = turn();
    let plugged = Plugged::new(&[format!("{ORPHANS}\necho up; sleep 1000")]);
    let call = plugged.labor.call();
    std::thread::scope(|scope| {
        let job = scope.spawn(|| overseer_builder::run(&plugged.request, &call.context).unwrap());
        while plugged.labor.log(&call).is_empty() {
            std::thread::yield_now();
        }
        call.cancel();
        plugged.builder.stop();
        plugged.assert_none_left();
        assert_eq!(job.join().unwrap().outcome, RunOutcome::Cancelled);
    });
}

#[test]
fn an_orphan_that_has_ended_is_gone_while_the_job_still_runs() {
    let _turn = turn();
    let step = "(env -i PIDS=$PIDS setsid sh -c 'echo $$ >> $PIDS' &)
        until test -s $PIDS; do :; done
        while kill -0 $(cat $PIDS) 2>/dev/null; do :; done";
    let mut plugged = Plugged::new(&[step.into()]);
    plugged.request.job.timeout_ms = 60_000;
    passed(&plugged.run());
}

#[test]
fn what_the_builder_runs_for_itself_is_left_alone() {
    let _turn = turn();
    let plugged = Plugged::new(&["true".into()]);
    let uptime = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let mut older = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let begun = uptime();
    // Starts are known to a hundredth of a second.
    while uptime() < begun + 0.02 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let plans = scope.spawn(|| {
            for _ in 0..10 {
                plugged.labor.plan(plugged.request.source.clone(), None);
            }
        });
        while !plans.is_finished() {
            passed(&plugged.run());
        }
        plans.join().unwrap();
    });
    assert!(older.try_wait().unwrap().is_none(), "what was there before the job");
    older.kill().unwrap();
    older.wait().unwrap();
}
