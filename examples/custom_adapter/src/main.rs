//! Nodes of your own kind: a fleet on a rack of two machines.

use custom_adapter::Rack;
use overseer::{Fleet, MainError, Restart};

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let room = std::env::temp_dir().join(format!("rack-{}", std::process::id()));
        let rack = Rack::new(room.clone(), 2);
        // Empty labors: no release is shipped, so they are ready when they are connected.
        let fleet = Fleet::quiet().adapter(rack.clone()).restart(Restart::Temporary).start().await?;
        let labors = fleet.start_children(2).await?;
        for labor in &labors {
            labor.ready().await?;
            let facts = labor.facts().ok_or("it has attached")?;
            println!("{} is ready on {}", labor.id(), facts.hostname);
        }
        let third = fleet.start_child().await?;
        println!("a third labor: {}", third.terminated().await);

        fleet.stop().await;
        if rack.free().len() == 2 {
            println!("all machines are free again");
        }
        std::fs::remove_dir_all(room)?;
        Ok(())
    })
}
