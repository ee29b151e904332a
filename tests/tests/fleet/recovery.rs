//! A server that is killed and started again, beside labors that live on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use overseer::FleetName;
use overseer_tests::{eventually, processes, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

struct Scene {
    directory: tempfile::TempDir,
    fleet: FleetName,
}

impl Scene {
    fn new(name: &str) -> Self {
        let fleet = format!("{name}-{}", std::process::id()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("marks")).unwrap();
        Self { directory, fleet }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the server, for the first time or again.
    fn serve(&self, labors: usize, tasks: usize, sleep_ms: u64) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_served"))
            .arg(self.path("data"))
            .arg(self.fleet.to_string())
            .args([labors.to_string(), tasks.to_string(), sleep_ms.to_string()])
            .arg(self.path("marks"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Server { child, said }
    }

    /// How often a task has left its mark.
    fn marks(&self, task: usize) -> usize {
        let mark: &Path = &self.path("marks").join(task.to_string());
        std::fs::read_to_string(mark).unwrap_or_default().lines().count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Where a test has failed.
        for process in processes::of(&self.fleet) {
            processes::signal(process.pid, Signal::KILL);
        }
    }
}

struct Server {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Its next line, which must be this one.
    async fn says(&mut self, what: &str) -> Value {
        let line = within(what, self.said.next_line()).await.unwrap().expect("it lives");
        let said: Value = serde_json::from_str(&line).unwrap();
        assert!(!said[what].is_null(), "{said}");
        said[what].clone()
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops the fleet.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(within("the server ends", self.child.wait()).await.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_takes_its_labors_and_tasks_up_again_and_runs_nothing_twice() {
    let scene = Scene::new("again");
    let mut first = scene.serve(4, 12, 2000);
    let labors = first.says("ready").await;
    let tasks = first.says("submitted").await;
    let alive = processes::of(&scene.fleet);
    first.kill().await;
    let mut second = scene.serve(4, 12, 2000);
    assert_eq!(second.says("ready").await, labors, "the same lives, the same plugin hosts");
    assert_eq!(second.says("submitted").await, tasks, "the same tasks");
    // One that was recorded and not yet on its way has a second attempt; none has two marks.
    second.says("done").await;
    for task in 0..12 {
        assert_eq!(scene.marks(task), 1, "task {task}");
    }
    assert_eq!(processes::of(&scene.fleet).len(), alive.len());
    second.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_died_while_the_server_was_away_is_replaced_and_its_tasks_are_run_again() {
    let scene = Scene::new("meanwhile");
    let mut first = scene.serve(3, 9, 1500);
    let labors = first.says("ready").await;
    first.says("submitted").await;
    first.kill().await;
    let victim = processes::of(&scene.fleet).into_iter().find(|p| p.role == processes::Role::Agent).unwrap();
    processes::signal(victim.pid, Signal::KILL);
    eventually("it is gone", async || (!processes::lives(victim.pid)).then_some(())).await;
    let mut second = scene.serve(3, 9, 1500);
    let again = second.says("ready").await;
    let replaced = |l: &&Value| l["generation"] != 1;
    assert_eq!(again.as_array().unwrap().iter().filter(replaced).count(), 1, "{labors} {again}");
    second.says("submitted").await;
    second.says("done").await;
    for task in 0..9 {
        assert!(scene.marks(task) >= 1, "task {task}");
    }
    second.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_labor_is_ended_and_its_crash_is_seen() {
    let scene = Scene::new("adopted");
    let mut first = scene.serve(2, 0, 0);
    first.says("ready").await;
    first.kill().await;
    let mut second = scene.serve(2, 0, 0);
    second.says("ready").await;
    let agents: Vec<_> =
        processes::of(&scene.fleet).into_iter().filter(|p| p.role == processes::Role::Agent).collect();
    processes::signal(agents[0].pid, Signal::KILL);
    eventually("it is replaced", async || {
        let now = processes::of(&scene.fleet);
        let count = now.iter().filter(|p| p.role == processes::Role::Agent).count();
        (count == 2 && now.iter().all(|p| p.pid != agents[0].pid)).then_some(())
    })
    .await;
    second.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn labors_of_a_server_that_does_not_come_back_end_by_their_lease() {
    // Its default lease is half a minute: enough for a restart, and no longer.
    let scene = Scene::new("gone");
    let mut first = scene.serve(1, 0, 0);
    first.says("ready").await;
    let pid = Pid::from_raw(first.child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let _ = first.child.wait().await;
    eventually("no process is left", async || processes::of(&scene.fleet).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_fleets_of_one_name_leave_each_others_labors_alone() {
    let scene = Scene::new("twins");
    let mut first = scene.serve(2, 0, 0);
    let labors = first.says("ready").await;
    let mut other = Scene::new("twins");
    other.fleet = scene.fleet.clone();
    let mut second = other.serve(2, 0, 0);
    second.says("ready").await;
    assert_eq!(processes::of(&scene.fleet).iter().filter(|p| p.role == processes::Role::Agent).count(), 4);
    // Also when one of them has left its labors to the next server.
    first.kill().await;
    second.end().await;
    let mut again = scene.serve(2, 0, 0);
    assert_eq!(again.says("ready").await, labors);
    again.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}
