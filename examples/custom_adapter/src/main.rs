//! Nodes of your own kind: a fleet on a rack of two machines.

use custom_adapter::Rack;
use overseer::{Fleet, MainError, Restart};

fn main() -> Result<(), MainError> {
    overseer::run(async {
        // Nobody else may look into it, and it goes when this ends.
        let room = tempfile::Builder::new().prefix("rack-").tempdir()?;
        // The program is its own agent.
        let rack = Rack::new(room.path().to_owned(), std::env::current_exe()?, 2);
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
        Ok(())
    })
}
