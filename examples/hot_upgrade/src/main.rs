//! A fleet changes its release while it is called: to a version that works, to one that does not, and
//! to one that goes on counting where the one before has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hot_upgrade::VERSION;
use overseer::local::Local;
use overseer::release::{ReleaseBuilder, ReleaseError, library_beside_program};
use overseer::{Fleet, MainError, Release, UpgradeOptions};

const LABORS: usize = 4;

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let fleet = Fleet::quiet()
            .adapter(Local::new())
            .release(version("1", false)?)
            .max_nodes(LABORS)
            .start()
            .await?;
        for labor in fleet.start_children(LABORS).await? {
            labor.ready().await?;
        }

        // Somebody calls the fleet all the time.
        let over = Arc::new(AtomicBool::new(false));
        let caller = tokio::spawn(call(fleet.clone(), over.clone()));

        // Half a second is enough to watch a counter.
        let options = || UpgradeOptions { watch: Duration::from_millis(500), ..UpgradeOptions::default() };
        for next in ["2", "broken"] {
            let upgrade = fleet.upgrade_with(Some(version(next, false)?), options()).await?;
            match upgrade.done().await {
                Ok(()) => println!("the fleet runs version {next}"),
                Err(error) => println!("version {next} was taken back: {error}"),
            }
        }
        let before: u64 = fleet.call("count", &()).await?;
        fleet.upgrade_with(Some(version("3", true)?), options()).await?.done().await?;
        let after: u64 = fleet.call("count", &()).await?;
        println!("version 3 goes on at {after} where version 2 was at {before}");

        over.store(true, Ordering::Relaxed);
        let calls = caller.await??;
        println!("{calls} calls meanwhile, and none failed");
        fleet.stop().await;
        Ok(())
    })
}

/// Every version is the same library; its environment says which one it is.
fn version(version: &str, handover: bool) -> Result<Release, ReleaseError> {
    let library = library_beside_program("hot_upgrade")?;
    let builder = ReleaseBuilder::plugin("counter", "1.0.0", library);
    Release::pack(builder.environment(VERSION, version).handover(handover))
}

async fn call(fleet: Fleet, over: Arc<AtomicBool>) -> Result<u64, overseer::CallError> {
    let mut calls = 0;
    while !over.load(Ordering::Relaxed) {
        let _: String = fleet.call("version", &()).await?;
        calls += 1;
    }
    Ok(calls)
}
