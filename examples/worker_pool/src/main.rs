//! A CPU-bound job over many labors: the primes below twenty million.

use std::time::Instant;

use overseer::local::Local;
use overseer::{Fleet, MainError, Release};
use worker_pool::Range;

const LABORS: usize = 4;
const LIMIT: u64 = 20_000_000;
const PIECE: u64 = 250_000;

fn main() -> Result<(), MainError> {
    overseer::run(async {
        let release = Release::plugin_beside_program("worker_pool", "1.0.0")?;
        let fleet = Fleet::quiet().adapter(Local::new()).release(release).max_nodes(LABORS).start().await?;
        let labors = fleet.start_children(LABORS).await?;
        for labor in &labors {
            labor.ready().await?;
        }

        let start = Instant::now();
        let ranges =
            (0..LIMIT).step_by(PIECE as usize).map(|from| Range { from, to: (from + PIECE).min(LIMIT) });
        // Every piece goes to the labor with the fewest open calls.
        let tasks: Vec<_> = ranges
            .map(|range| {
                let fleet = fleet.clone();
                tokio::spawn(async move { fleet.call::<_, u64>("count", &range).await })
            })
            .collect();
        let mut primes = 0;
        for task in tasks {
            primes += task.await??;
        }
        println!("{primes} primes below {LIMIT}, counted by {LABORS} labors in {:?}", start.elapsed());
        fleet.stop().await;
        Ok(())
    })
}
