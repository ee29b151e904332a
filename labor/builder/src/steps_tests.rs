use std::sync::atomic::{AtomicU64, Ordering};

use overseer_plugin::testing::{Recorder, TestCall};

use super::*;
use crate::group::MARK;

#[derive(Default)]
struct Heard {
    log: Vec<u8>,
    total: u64,
    keep: bool,
    steps: Vec<(u32, u64)>,
    on_output: Option<Box<dyn FnMut()>>,
}

impl Listener for Heard {
    fn output(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.keep {
            self.log.extend_from_slice(bytes);
        }
        if let Some(on_output) = &mut self.on_output {
            on_output();
        }
    }
    fn step_started(&mut self, step: u32, _: &str) {
        self.steps.push((step, self.total));
    }
    fn step_finished(&mut self, step: u32, _: &StepReport) {
        self.steps.push((step, self.total));
    }
}

struct Job {
    dir: tempfile::TempDir,
    call: Arc<TestCall>,
    timeout: Duration,
    mark: String,
}

impl Job {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = tempfile::tempdir().unwrap();
        let call = Arc::new(Recorder::new(dir.path()).call(1));
        let mark = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir, call, timeout: Duration::from_secs(60), mark }
    }

    fn run(&self, commands: &[&str], heard: &mut Heard) -> Ran {
        let commands: Vec<String> = commands.iter().map(|c| (*c).to_owned()).collect();
        let env = [("PATH".to_owned(), std::env::var_os("PATH").unwrap())].into_iter().collect();
        let place = Place::open(self.dir.path()).unwrap();
        let steps = Steps { commands: &commands, place: &place, env: &env, timeout: self.timeout };
        let group = Arc::new(Group::start(self.mark.clone()).unwrap());
        run(&steps, &group, &Cancel::of(&self.call.context).unwrap(), heard).unwrap()
    }

    fn heard(&self, commands: &[&str]) -> (Ran, String) {
        let mut heard = Heard { keep: true, ..Heard::default() };
        let ran = self.run(commands, &mut heard);
        (ran, String::from_utf8(heard.log).unwrap())
    }

    /// Processes of the job that are alive.
    fn left(&self) -> usize {
        let wanted = format!("{MARK}={}", self.mark);
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|p| std::fs::read(p.ok()?.path().join("environ")).ok())
            .filter(|e| e.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes()))
            .count()
    }
}

fn reason(ran: &Ran) -> (Option<u32>, FailureReason) {
    match &ran.outcome {
        RunOutcome::Failed(failure) => (failure.step, failure.reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn output_and_errors_come_in_order() {
    let (ran, log) = Job::new().heard(&["echo a; echo b >&2; echo c", "echo d >&2"]);
    assert_eq!(ran.outcome, RunOutcome::Passed);
    assert_eq!(log, "a\nb\nc\nd\n");
    assert_eq!(ran.steps.iter().map(|s| s.exit).collect::<Vec<_>>(), [Some(0), Some(0)]);
}

#[test]
fn the_place_of_every_step_in_the_log_is_known() {
    let mut heard = Heard::default();
    Job::new().run(&["printf 1234567", "true", "printf 89; exit 3", "never"], &mut heard);
    assert_eq!(heard.steps, [(0, 0), (0, 7), (1, 7), (1, 7), (2, 7), (2, 9)]);
}

#[test]
fn a_failing_step_ends_the_job_with_its_last_lines() {
    let (ran, log) = Job::new().heard(&["echo first", "echo why; false; echo not reached", "echo no"]);
    assert_eq!(reason(&ran), (Some(1), FailureReason::Exit { code: 1 }));
    assert_eq!(log, "first\nwhy\n");
    let RunOutcome::Failed(failure) = ran.outcome else { unreachable!() };
    assert_eq!(failure.tail, ["why"]);
    assert_eq!(ran.steps.len(), 2);
}

#[test]
fn signals_and_unknown_commands_are_told_apart() {
    let (ran, _) = Job::new().heard(&["kill -SEGV $$"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Signal { signal: 11 }));
    let (ran, log) = Job::new().heard(&["no-such-program-here"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Exit { code: 127 }));
    assert!(log.contains("not found"), "{log}");
    let (ran, _) = Job::new().heard(&["-x"]);
    assert_eq!(reason(&ran).1, FailureReason::Exit { code: 127 }, "a command, not an option of the shell");
}

#[test]
fn a_job_that_runs_too_long_is_ended_with_all_its_children() {
    let mut job = Job::new();
    job.timeout = Duration::from_millis(300);
    let begun = Instant::now();
    let (ran, log) = job.heard(&["echo one", "echo two; sleep 1000 & sleep 1000"]);
    assert_eq!(reason(&ran), (Some(1), FailureReason::Timeout { after_ms: 300 }));
    assert_eq!((log.as_str(), ran.steps[1].exit), ("one\ntwo\n", None));
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(job.left(), 0);
}

#[test]
fn a_cancelled_job_ends_at_once_with_all_its_children() {
    let job = Job::new();
    let cancelling = job.call.clone();
    // Cancelled when the step is known to run.
    let on_output: Option<Box<dyn FnMut()>> = Some(Box::new(move || cancelling.cancel()));
    let mut heard = Heard { on_output, ..Heard::default() };
    let ran = job.run(&["(trap '' TERM INT; setsid sleep 1000) & echo up; sleep 1000"], &mut heard);
    assert_eq!(ran.outcome, RunOutcome::Cancelled);
    assert_eq!(ran.steps[0].exit, None);
    assert_eq!(job.left(), 0);
}

#[test]
fn what_a_step_leaves_in_the_background_lives_to_the_end_of_the_job_only() {
    let job = Job::new();
    let (ran, log) = job.heard(&[
        "sleep 1000 & echo $! > pid; setsid sleep 1000 &",
        "kill -0 $(cat pid) && echo still there",
    ]);
    assert_eq!(ran.outcome, RunOutcome::Passed, "{log}");
    assert_eq!(log, "still there\n");
    assert_eq!(job.left(), 0);
}

#[test]
fn a_flood_in_the_background_does_not_hold_the_job_up() {
    let (ran, _) = Job::new().heard(&["yes & true", "true"]);
    assert_eq!(ran.outcome, RunOutcome::Passed);
}

#[test]
fn a_flood_of_output_takes_no_memory() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let mut heard = Heard::default();
    let ran = Job::new().run(&["head -c 1000000000 /dev/zero"], &mut heard);
    assert_eq!(ran.outcome, RunOutcome::Passed);
    assert_eq!(heard.total, 1_000_000_000);
    assert!(resident() < before + 64 * 1024 * 1024);
}

#[test]
fn a_step_that_kills_its_own_group_fails_alone() {
    let job = Job::new();
    let (ran, _) = job.heard(&["kill -KILL 0"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Signal { signal: 9 }));
    assert_eq!(job.left(), 0);
}

#[test]
fn steps_read_nothing_from_the_labors_input() {
    let (ran, log) = Job::new().heard(&["cat; echo end"]);
    assert_eq!((ran.outcome, log.as_str()), (RunOutcome::Passed, "end\n"));
}

#[test]
fn a_step_that_leaves_its_group_is_ended_by_the_timeout() {
    let mut job = Job::new();
    job.timeout = Duration::from_millis(300);
    let begun = Instant::now();
    let (ran, log) = job.heard(&["echo up; exec setsid sleep 8885"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Timeout { after_ms: 300 }));
    assert_eq!((log.as_str(), ran.steps[0].exit), ("up\n", None));
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(job.left(), 0);
}

#[test]
fn a_step_that_leaves_its_group_and_floods_is_ended_by_a_cancellation() {
    let job = Job::new();
    let cancelling = job.call.clone();
    let on_output: Option<Box<dyn FnMut()>> = Some(Box::new(move || cancelling.cancel()));
    let mut heard = Heard { on_output, ..Heard::default() };
    let ran = job.run(&["exec setsid yes"], &mut heard);
    assert_eq!(ran.outcome, RunOutcome::Cancelled);
    assert_eq!(job.left(), 0);
}

#[test]
fn a_timeout_shorter_than_the_start_of_a_step_is_one() {
    let mut job = Job::new();
    job.timeout = Duration::from_nanos(1);
    let (ran, _) = job.heard(&["true"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Timeout { after_ms: 0 }));
    job.timeout = Duration::from_millis(1);
    let (ran, _) = job.heard(&["sleep 0.01", "true"]);
    assert_eq!(reason(&ran), (Some(0), FailureReason::Timeout { after_ms: 1 }));
}

#[test]
fn a_step_without_its_directory_fails_the_job() {
    let job = Job::new();
    let (ran, log) = job.heard(&["rm -rf \"$PWD\"; echo done", "echo never"]);
    let (step, FailureReason::Artifacts { message }) = reason(&ran) else { panic!("{ran:?}") };
    assert!(step == Some(1) && message.contains("the checkout is gone"), "{message}");
    assert_eq!((log.as_str(), ran.steps.len()), ("done\n", 2));
    std::fs::create_dir(job.dir.path()).unwrap();
}
