//! A server that is killed between any two writes of its store: what was acknowledged is there,
//! what was not is there once or not at all, and nothing else is left.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use overseer::check;
use overseer::data_dir::DataDir;
use overseer_tests::kill_at_write::{KillAt, VARIABLE};
use overseer_tests::processes::Role;
use overseer_tests::scene::{Scene, Server};
use overseer_tests::{eventually, within};
use serde_json::Value;
use tokio::process::Command;

/// More than any server writes until it has stopped.
const MOST_WRITES: u64 = 60;

/// What a server said until it was killed, or had stopped.
#[derive(Debug, Default)]
struct Heard {
    /// Of the labor that was there, or was asked for.
    labor: Option<Value>,
    /// Of a labor that answered: its id and its plugin host.
    ready: Option<Value>,
    /// By key.
    submitted: BTreeMap<String, Value>,
    /// By key: `done`, or why not.
    over: BTreeMap<String, String>,
    /// Tasks in the store.
    tasks: Option<u64>,
    stopped: bool,
}

impl Heard {
    fn hear(&mut self, said: &Value) {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        if let Some(found) = said["found"].as_array().and_then(|f| f.first()).or(said.get("asked")) {
            self.labor = Some(found.clone());
        }
        if let Some(ready) = said.get("ready") {
            self.ready = Some(ready.clone());
        }
        if let Some(task) = said.get("submitted") {
            self.submitted.insert(text(&task["key"]), task["task"].clone());
        }
        if let Some(over) = said.get("over") {
            self.over.insert(text(&over["key"]), text(&over["result"]));
        }
        self.tasks = self.tasks.or(said["tasks"].as_u64());
        self.stopped |= said["stopped"] == true;
    }
}

/// One server, until it is killed by its own hand or all is done and it waits; and what it said.
async fn serve(scene: &Scene, kill: Option<KillAt>) -> (Server, Heard) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_killed"));
    command.arg(scene.path("data")).arg(scene.fleet.to_string()).arg(scene.path("marks"));
    if let Some(kill) = kill {
        command.env(VARIABLE, kill.to_string());
    }
    let (mut server, mut heard) = (Server::start(command), Heard::default());
    while heard.tasks.is_none() {
        let Some(said) = server.next().await else { break };
        heard.hear(&said);
    }
    (server, heard)
}

/// The store of a directory that nobody uses has nothing wrong in it.
async fn assert_clean(scene: &Scene, when: &str) {
    if !scene.path("data/store.redb").exists() {
        return;
    }
    let data = DataDir::open_existing(scene.path("data")).unwrap();
    let report = check::check(&data, &[], true, |_| ()).await.unwrap();
    assert!(report.is_clean(), "{when}: {:?}", report.problems);
}

/// A server goes on where another one was killed. Everything that was acknowledged holds.
async fn goes_on(scene: &Scene, before: &Heard, was_stopping: bool, when: &str) {
    let (mut server, now) = serve(scene, None).await;
    assert!(now.tasks.is_some(), "{when}: the next server ended early: {now:?}");
    for (key, task) in &before.submitted {
        assert_eq!(now.submitted.get(key), Some(task), "{when}: a task that was acknowledged");
    }
    assert_eq!(now.tasks, Some(2), "{when}: one task for each key");
    if before.ready.is_some() && !was_stopping {
        assert_eq!(now.ready, before.ready, "{when}: a labor that was ready goes on as it is");
    }
    for (key, result) in &before.over {
        assert_eq!(now.over.get(key), Some(result), "{when}: what a task came to");
    }
    assert_eq!(now.over["again"], "done", "{when}");
    assert_eq!(scene.marks("again"), 1, "{when}: run again though its labor lives");
    let (ran, done) = (scene.marks("once"), now.over["once"] == "done");
    assert!(ran == 1 || (ran == 0 && !done), "{when}: {ran} runs, {:?}", now.over);
    // A node that nobody knows is ended beside all that.
    eventually(&format!("{when}: one labor, and nothing else"), async || {
        (scene.count(Role::Agent) == 1 && scene.count(Role::Host) == 1).then_some(())
    })
    .await;
    assert!(server.wait().await.success(), "{when}");
    assert_eq!(overseer_tests::processes::of(&scene.fleet), [], "{when}: processes are left");
    assert_clean(scene, when).await;
}

/// A server that is killed there, and the one after it. False when it was not killed at all.
async fn killed_once(kill: KillAt) -> bool {
    let when = format!("killed {kill}");
    let name = format!("k-{}", kill.to_string().replace(':', "-"));
    let scene = Scene::new(&name);
    let (mut server, mut heard) = serve(&scene, Some(kill)).await;
    let was_stopping = heard.tasks.is_some();
    let status = server.wait().await;
    while let Some(said) = server.next().await {
        heard.hear(&said);
    }
    assert!(status.success() || status.signal() == Some(9), "{when}: {status}");
    assert_eq!(status.success(), heard.stopped, "{when}");
    assert_clean(&scene, &when).await;
    goes_on(&scene, &heard, was_stopping, &when).await;
    !status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_between_any_two_writes_keeps_what_it_acknowledged_and_leaves_nothing() {
    let mut killed = 0;
    for n in 1..=MOST_WRITES {
        // Each has a directory of its own.
        let (before, after) = tokio::join!(killed_once(KillAt::Before(n)), killed_once(KillAt::After(n)));
        if !before && !after {
            println!("{killed} kills, up to write {}", n - 1);
            assert!(n > 10, "there were no such writes");
            return;
        }
        killed += u64::from(before) + u64::from(after);
    }
    panic!("it writes more than {MOST_WRITES} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_one_directory_that_are_each_killed_a_write_later_get_there_in_the_end() {
    let scene = Scene::new("chain");
    let mut all = Heard::default();
    for n in 1..=MOST_WRITES {
        let (mut server, heard) = within("a server", serve(&scene, Some(KillAt::After(n)))).await;
        for (key, task) in heard.submitted {
            let first = all.submitted.entry(key).or_insert_with(|| task.clone());
            assert_eq!(*first, task, "killed after {n}");
        }
        all.over.extend(heard.over);
        if heard.tasks.is_some() {
            server.kill().await;
            all.labor = heard.labor;
            all.ready = heard.ready;
            goes_on(&scene, &all, false, &format!("the chain, up to write {n}")).await;
            return;
        }
        server.wait().await;
        assert_clean(&scene, &format!("the chain, killed after {n}")).await;
        assert!(scene.count(Role::Agent) <= 1, "killed after {n}: several nodes for one labor");
    }
    panic!("it never got there");
}
