//! What goes on by itself for as long as a control plane lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::condition::Condition;
use crate::sweep::Sweeper;

/// How often is looked for what nobody needs any more.
const SWEEP: Duration = Duration::from_secs(3600);

/// Looks at the clock and at the disk, and sweeps.
pub(super) async fn run(condition: Arc<Condition>, mut sweeper: Sweeper, mut stopped: watch::Receiver<bool>) {
    let look = async {
        let mut every = tokio::time::interval(clock::LOOK);
        loop {
            every.tick().await;
            clock::now();
            condition.look();
        }
    };
    let sweep = async {
        let mut every = tokio::time::interval(SWEEP);
        loop {
            every.tick().await;
            if let Err(error) = sweeper.look().await {
                tracing::warn!(%error, "what no task needs any more could not be removed; trying again later");
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = sweep => {}
        // One that was dropped has stopped too.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}
