//! A server that is meant to be killed and started again: its labors and tasks outlive it.
//!
//! Arguments: data directory, name of the fleet, labors, tasks, milliseconds of each, a directory
//! for their marks. Prints a JSON line when the labors are ready (with the
//! milliseconds since the start until they were taken over, and until they were ready), when the tasks are submitted and
//! when they are done; at the end of its standard input it stops the fleet.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use overseer::{ControlPlane, Fleet, MainError, Release, TaskOptions, local::Local};
use serde_json::json;

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let started = Instant::now();
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [data, name, labors, tasks, sleep, marks] = &args[..] else { return Err("six arguments".into()) };
        let (labors, tasks): (usize, usize) = (labors.parse()?, tasks.parse()?);
        let sleep: u64 = sleep.parse()?;
        let plane = ControlPlane::builder().data_directory(data).served(true).start().await?;
        let fleet = Fleet::quiet()
            .name(name)
            .max_nodes(1000)
            .adapter(Local::new())
            .release(Release::plugin_beside_program("probe_plugin", "1.0.0")?)
            .allow_unsigned(true)
            .backoff(overseer::Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(1) })
            .control_plane(&plane)
            .start()
            .await?;
        let missing = labors.saturating_sub(fleet.count_children().await?.total);
        fleet.start_children(missing).await?;
        let took_over_ms = started.elapsed().as_millis() as u64;
        for labor in fleet.which_children() {
            labor.ready().await?;
        }
        // Not with the calls below: a labor whose places are all taken answers when one is free.
        let ready_ms = started.elapsed().as_millis() as u64;
        let mut all = Vec::new();
        for labor in fleet.which_children() {
            let pid: u32 = labor.call("pid", &()).await?;
            all.push(json!({"labor": labor.id(), "generation": labor.status().generation, "host": pid}));
        }
        println!("{}", json!({"ready": all, "took_over_ms": took_over_ms, "ready_ms": ready_ms}));
        let mut submitted = Vec::new();
        for number in 0..tasks {
            let mark = PathBuf::from(marks).join(number.to_string());
            let payload = serde_json::to_vec(&(mark, sleep))?;
            let options = TaskOptions::default().key(format!("task-{number}"));
            submitted.push(fleet.submit_bytes("mark", payload, options).await?);
        }
        println!("{}", json!({"submitted": submitted.iter().map(overseer::Task::id).collect::<Vec<_>>()}));
        let mut attempts = Vec::new();
        for task in &submitted {
            task.result_bytes().await?;
            attempts.push(task.record().await?.attempts);
        }
        println!("{}", json!({"done": attempts}));
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        fleet.stop().await;
        plane.shutdown().await;
        Ok(())
    })
}
