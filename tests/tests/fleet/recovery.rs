//! A server that is killed and started again, beside labors that live on.

use overseer_tests::scene::{Scene, Server};
use overseer_tests::{eventually, processes};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

/// Starts the server, for the first time or again.
fn serve(scene: &Scene, labors: usize, tasks: usize, sleep_ms: u64) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_served"));
    command
        .arg(scene.path("data"))
        .arg(scene.fleet.to_string())
        .args([labors.to_string(), tasks.to_string(), sleep_ms.to_string()])
        .arg(scene.path("marks"));
    Server::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_takes_its_labors_and_tasks_up_again_and_runs_nothing_twice() {
    let scene = Scene::new("again");
    let mut first = serve(&scene, 4, 12, 2000);
    let labors = first.says("ready").await;
    let tasks = first.says("submitted").await;
    let alive = processes::of(&scene.fleet);
    first.kill().await;
    let mut second = serve(&scene, 4, 12, 2000);
    assert_eq!(second.says("ready").await, labors, "the same lives, the same plugin hosts");
    assert_eq!(second.says("submitted").await, tasks, "the same tasks");
    // One that was recorded and not yet on its way has a second attempt; none has two marks.
    second.says("done").await;
    for task in 0..12 {
        assert_eq!(scene.marks(&task.to_string()), 1, "task {task}");
    }
    assert_eq!(processes::of(&scene.fleet).len(), alive.len());
    second.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_that_died_while_the_server_was_away_is_replaced_and_its_tasks_are_run_again() {
    let scene = Scene::new("meanwhile");
    let mut first = serve(&scene, 3, 9, 1500);
    let labors = first.says("ready").await;
    first.says("submitted").await;
    first.kill().await;
    let victim = processes::of(&scene.fleet).into_iter().find(|p| p.role == processes::Role::Agent).unwrap();
    processes::signal(victim.pid, Signal::KILL);
    eventually("it is gone", async || (!processes::lives(victim.pid)).then_some(())).await;
    let mut second = serve(&scene, 3, 9, 1500);
    let again = second.says("ready").await;
    let replaced = |l: &&Value| l["generation"] != 1;
    assert_eq!(again.as_array().unwrap().iter().filter(replaced).count(), 1, "{labors} {again}");
    second.says("submitted").await;
    second.says("done").await;
    for task in 0..9 {
        assert!(scene.marks(&task.to_string()) >= 1, "task {task}");
    }
    second.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_labor_is_ended_and_its_crash_is_seen() {
    let scene = Scene::new("adopted");
    let mut first = serve(&scene, 2, 0, 0);
    first.says("ready").await;
    first.kill().await;
    let mut second = serve(&scene, 2, 0, 0);
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
    let mut first = serve(&scene, 1, 0, 0);
    first.says("ready").await;
    first.kill().await;
    eventually("no process is left", async || processes::of(&scene.fleet).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_fleets_of_one_name_leave_each_others_labors_alone() {
    let scene = Scene::new("twins");
    let mut first = serve(&scene, 2, 0, 0);
    let labors = first.says("ready").await;
    let mut other = Scene::new("twins");
    other.fleet = scene.fleet.clone();
    let mut second = serve(&other, 2, 0, 0);
    second.says("ready").await;
    assert_eq!(processes::of(&scene.fleet).iter().filter(|p| p.role == processes::Role::Agent).count(), 4);
    // Also when one of them has left its labors to the next server.
    first.kill().await;
    second.end().await;
    let mut again = serve(&scene, 2, 0, 0);
    assert_eq!(again.says("ready").await, labors);
    again.end().await;
    assert_eq!(processes::of(&scene.fleet), [], "processes are left");
}

/// The directories of labors in the data directory: the names of their lives.
fn directories(scene: &Scene) -> Vec<String> {
    let entries = std::fs::read_dir(scene.path("data/labors")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_labors_leave_that_die_while_no_server_runs_is_removed_and_nothing_else() {
    let scene = Scene::new("leavings");
    let mut first = serve(&scene, 3, 0, 0);
    first.says("ready").await;
    first.kill().await;
    assert_eq!(directories(&scene).len(), 3);
    let victim = processes::of(&scene.fleet)[0].labor;
    let of_victim = || processes::of(&scene.fleet).into_iter().filter(|p| p.labor == victim);
    of_victim().for_each(|process| processes::signal(process.pid, Signal::KILL));
    eventually("it is gone", async || of_victim().next().is_none().then_some(())).await;
    // One of a fleet that nobody has any more; one that is not a labor's.
    let forgotten = scene.path("data/labors/l-01arz3ndektsv4rrffq69g5fav-3/deep");
    std::fs::create_dir_all(forgotten).unwrap();
    std::fs::create_dir(scene.path("data/labors/notes")).unwrap();
    let mut second = serve(&scene, 3, 0, 0);
    second.says("ready").await;
    let of_those_that_live = async || {
        let lives = processes::of(&scene.fleet);
        let mut names: Vec<_> = lives.iter().map(|p| format!("{}-{}", p.labor, p.generation)).collect();
        names.push("notes".into());
        names.sort();
        names.dedup();
        (names.len() == 4 && names == directories(&scene)).then_some(())
    };
    eventually("only those of labors that live are left", of_those_that_live).await;
    second.end().await;
}
