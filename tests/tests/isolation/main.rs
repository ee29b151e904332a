//! Plugin hosts that are kept in bounds and apart from their agent.
#![allow(clippy::unwrap_used)]

mod descriptors;
mod limits;
mod lowered;
mod memory;
mod user;

use std::sync::Arc;

use overseer::{CallOptions, Cause, Fleet, FleetEvent, Isolation, Labor, RunAs};
use overseer_tests::{eventually, within};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Nobody's, who is on every machine.
const NOBODY: u32 = 65_534;
const MIB: u64 = 1 << 20;

fn nobody() -> Option<RunAs> {
    Some(RunAs::Ids { uid: NOBODY, gid: Some(NOBODY) })
}

fn none() -> Isolation {
    Isolation::default()
}

async fn ask<T: DeserializeOwned + Send>(
    labor: &Labor,
    method: &str,
    argument: &(impl Serialize + Sync),
) -> T {
    within(method, labor.call(method, argument)).await.unwrap()
}

/// A call that ends its host.
async fn provoke(labor: &Labor, method: &str) {
    let answer = within(method, labor.call_bytes(method, "null", CallOptions::default())).await;
    assert!(answer.is_err(), "{method}: {answer:?}");
}

/// Why plugin hosts have ended, in order.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<Cause>>>);

impl overseer::Overseer for Ends {
    async fn handle_event(&mut self, _: &Fleet<Self>, event: &FleetEvent) {
        if let FleetEvent::PluginHost { what, cause: Some(cause), .. } = event
            && what == "exited"
        {
            self.0.lock().push(cause.clone());
        }
    }
}

impl Ends {
    /// All of them, once there are so many.
    async fn count(&self, wanted: usize) -> Vec<Cause> {
        eventually("plugin hosts have ended", async || {
            let all = self.0.lock().clone();
            (all.len() >= wanted).then_some(all)
        })
        .await
    }
}

/// Waits for a host that is not the one of before, on the same node.
async fn goes_on(labor: &Labor, before: u32) {
    let again = eventually("a new host", async || labor.call::<_, u32>("pid", &()).await.ok()).await;
    assert_ne!(again, before);
    assert_eq!(labor.status().generation.0, 1, "the node went with its host");
}
