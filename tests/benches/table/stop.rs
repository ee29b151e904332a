//! Stopping a fleet: every plugin asked to stop, every node gone.

use std::time::Instant;

use overseer::BoxError;
use overseer::local::Local;

use crate::bench::{Bench, ready};
use crate::row::{Row, Unit, millis};

const LABORS: usize = 8;
const TIMES: usize = 10;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let mut samples = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let fleet = bench.fleet(Local::new()).await?;
        ready(&fleet, LABORS).await?;
        let start = Instant::now();
        fleet.stop().await;
        samples.push(millis(start.elapsed()));
    }
    Ok(vec![Row::new("fleet of 8 stopped", Unit::Milliseconds, samples)])
}
