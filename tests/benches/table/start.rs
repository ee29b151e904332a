//! From `start_child` on an empty local node to ready: paired, release unpacked, plugin loaded. The
//! host has had the release, but where it says otherwise.

use std::time::Instant;

use overseer::local::Local;
use overseer::{BoxError, Fleet, ReleaseCache};

use crate::bench::{Bench, ready};
use crate::peers::recorded;
use crate::row::{Row, Unit, millis};

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let fleet = bench.fleet(Local::new()).await?;
    // The first start of a program reads it from the disk.
    starts(&fleet, 1, 2).await?;
    let one = Row::new("start to ready, 1 labor", Unit::Milliseconds, starts(&fleet, 1, 40).await?)
        .against(recorded("Elixir", "start"))
        .goal(15.0);
    let eight = Row::new("start to ready, 8 at once", Unit::Milliseconds, starts(&fleet, 8, 12).await?)
        .against(recorded("Elixir", "start of 8"))
        .goal(80.0);
    let all = Row::new("start to ready, 64 at once", Unit::Milliseconds, starts(&fleet, 64, 5).await?);
    fleet.stop().await;
    let fleet = bench.fleet_with(Local::new(), ReleaseCache::none()).await?;
    let fetched = Row::new("same, without a cache", Unit::Milliseconds, starts(&fleet, 1, 40).await?);
    fleet.stop().await;
    Ok(vec![one, fetched, eight, all.goal(600.0)])
}

/// Milliseconds until all of so many labors are ready.
async fn starts(fleet: &Fleet, labors: usize, times: usize) -> Result<Vec<f64>, BoxError> {
    let mut samples = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        let labors = ready(fleet, labors).await?;
        samples.push(millis(start.elapsed()));
        fleet.terminate_all();
        for labor in labors {
            labor.terminated().await;
        }
    }
    Ok(samples)
}
