//! What happens when plugins crash and nodes die: a panic costs a call, an abort costs the
//! plugin host, and a kill costs the node, which is replaced.

use std::process::Command;

use overseer::local::Local;
use overseer::{Fleet, LaborState, MainError, Release};

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let release = Release::plugin_beside_program("crash_and_restart", "1.0.0")?;
        let local = Local::new();
        let fleet = Fleet::quiet().adapter(local.clone()).release(release).max_nodes(1).start().await?;
        let labor = fleet.start_child().await?;
        labor.ready().await?;

        let first: u32 = labor.call("hello", &()).await?;
        println!("plugin host {first} answers");
        if let Err(error) = labor.call::<_, ()>("panic", &()).await {
            println!("a panic costs the call: {error}");
        }
        if let Err(error) = labor.call::<_, ()>("abort", &()).await {
            println!("an abort costs the plugin host: {error}");
        }
        let second: u32 = fleet.call("hello", &()).await?;
        println!("plugin host {second} answers again, on the same node");

        let (_, agent) = local.processes()[0];
        Command::new("kill").args(["-9", &agent.to_string()]).status()?;
        let status = labor.wait_for(|s| s.generation.0 == 2 && s.state == LaborState::Ready).await;
        let third: u32 = labor.call("hello", &()).await?;
        println!("plugin host {third} answers on generation {}", status.generation);

        for entry in labor.history() {
            let cause = entry.cause.map(|c| format!(": {c}")).unwrap_or_default();
            println!("  generation {} {}{cause}", entry.generation, entry.state);
        }
        fleet.stop().await;
        Ok(())
    })
}
