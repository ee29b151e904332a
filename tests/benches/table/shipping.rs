//! A large release that cannot be compressed: from connected to loaded, which is unpacked and
//! verified.

use std::time::Instant;

use overseer::local::Local;
use overseer::{BoxError, LaborState};

use crate::bench::Bench;
use crate::row::{Against, Row, Unit, millis};

const BYTES: usize = 32 * 1024 * 1024;
const TIMES: usize = 10;

pub(crate) async fn rows(bench: &Bench) -> Result<Vec<Row>, BoxError> {
    let release = bench.release_with("large", BYTES)?;
    let fleet = bench.builder(Local::new(), release).start().await?;
    let mut samples = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let mut events = fleet.events();
        let labor = fleet.start_child().await?;
        let mut connected = None;
        loop {
            let event = events.recv().await?;
            match event.state {
                // The end of the one before may come late.
                _ if event.labor != labor.id() => {}
                LaborState::Connected => connected = Some(Instant::now()),
                LaborState::Loaded => break,
                LaborState::Terminated => return Err("the labor ended before it was loaded".into()),
                _ => {}
            }
        }
        samples.extend(connected.map(|at| millis(at.elapsed())));
        fleet.terminate_child(labor.id());
        labor.terminated().await;
    }
    fleet.stop().await;
    let row = Row::new("32 MiB, connected-loaded", Unit::Milliseconds, samples);
    Ok(vec![row.against(Against::recorded("Elixir", 393.0)).goal(200.0)])
}
