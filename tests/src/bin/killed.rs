//! A server that asks for one labor and two tasks, and may kill itself at a write of its store, as
//! `overseer_tests::kill_at_write` says. Started again on the same directory it goes on.
//!
//! Arguments: data directory, name of the fleet, a directory for the marks of the tasks. Prints a
//! JSON line for each thing that it was told; at the end of its standard input it stops the fleet.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use overseer::{ControlPlane, Fleet, MainError, Release, Retry, TaskError, TaskOptions, local::Local};
use overseer_tests::kill_at_write::KillAt;
use serde_json::json;

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [data, name, marks] = &args[..] else { return Err("three arguments".into()) };
        let mut builder = ControlPlane::builder().data_directory(data).served(true);
        if let Some(at) = KillAt::from_environment()? {
            builder = builder.store_layer(at.layer());
        }
        let plane = builder.start().await?;
        let fleet = Fleet::quiet()
            .name(name)
            .adapter(Local::new())
            .release(Release::plugin_beside_program("probe_plugin", "1.0.0")?)
            .allow_unsigned(true)
            .backoff(overseer::Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(1) })
            .control_plane(&plane)
            .start()
            .await?;
        // One that the server before this one was ending still has its slot, and is not counted on.
        let found: Vec<_> = fleet.which_children().iter().map(overseer::Labor::id).collect();
        println!("{}", json!({"found": found}));
        if found.is_empty() {
            println!("{}", json!({"asked": fleet.start_child().await?.id()}));
        }
        // Tasks first: they are at work while the labor starts.
        let mut tasks = Vec::new();
        for (key, retry) in [("once", Retry::never()), ("again", Retry::default())] {
            let payload = serde_json::to_vec(&(Path::new(marks).join(key), 20u64))?;
            let options = TaskOptions::default().key(key).retry(retry);
            let task = fleet.submit_bytes("mark", payload, options).await?;
            println!("{}", json!({"submitted": {"key": key, "task": task.id()}}));
            tasks.push((key, task));
        }
        for labor in fleet.which_children() {
            match host_of(&labor).await {
                Some(host) => println!("{}", json!({"ready": {"labor": labor.id(), "host": host}})),
                // It was being ended when the server before this one was killed.
                None => println!("{}", json!({"ended": labor.id()})),
            }
        }
        if fleet.count_children().await?.total == 0 {
            let labor = fleet.start_child().await?;
            println!("{}", json!({"asked": labor.id()}));
            labor.ready().await?;
        }
        for (key, task) in &tasks {
            let result = match task.result_bytes().await {
                Ok(_) => json!("done"),
                Err(TaskError::Failed(failure)) => json!(failure.to_string()),
                Err(error) => return Err(error.into()),
            };
            println!("{}", json!({"over": {"key": key, "result": result}}));
        }
        let kept =
            fleet.list_tasks(true, None, 10).await?.len() + fleet.list_tasks(false, None, 10).await?.len();
        println!("{}", json!({"tasks": kept}));
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        fleet.stop().await;
        println!("{}", json!({"stopped": true}));
        plane.shutdown().await;
        Ok(())
    })
}

/// The process id of its plugin host, once it answers; none when it ends for good.
async fn host_of(labor: &overseer::Labor) -> Option<u32> {
    loop {
        labor.ready().await.ok()?;
        // One that was on its way out answers no more, and is replaced or ends.
        if let Ok(host) = labor.call("pid", &()).await {
            return Some(host);
        }
    }
}
