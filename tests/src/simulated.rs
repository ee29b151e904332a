//! Labors that are sessions and nothing else: each joins, attaches, says that it lives and one
//! record of telemetry at each heartbeat, and reads what it is told.

use std::sync::Arc;
use std::time::Duration;

use overseer_protocol::Bootstrap;
use overseer_protocol::proto::{Heartbeat, Report, Telemetry, ToOverseer, order, report};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::peer::{Keys, attach, hello, join, join_request, reach};

/// That join at the same time.
const JOINING: usize = 32;

/// Many of them.
pub struct Swarm {
    joining: Arc<Semaphore>,
    labors: JoinSet<()>,
}

impl Default for Swarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Swarm {
    /// None yet.
    pub fn new() -> Self {
        Self { joining: Arc::new(Semaphore::new(JOINING)), labors: JoinSet::new() }
    }

    /// One more; waits while many join.
    pub async fn add(&mut self, document: Bootstrap) {
        let place = Arc::clone(&self.joining).acquire_owned().await.unwrap();
        self.labors.spawn(async move {
            let keys = Keys::generate();
            let joined = join(&document, join_request(&document.claim, &keys)).await.unwrap();
            let identity = keys.identity(&joined.identity.unwrap().certificate);
            let channel = reach(&document, Some(identity)).await;
            let (send, mut orders) = attach(&channel, vec![hello()]).await.unwrap();
            let first = orders.message().await.unwrap().unwrap();
            let Some(order::Kind::Welcome(welcome)) = first.orders.into_iter().find_map(|o| o.kind) else {
                panic!("no welcome");
            };
            drop(place);
            let mut beat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.into()));
            // After a stall it says that it lives once, not once for each time that it was silent.
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut seq = 0;
            loop {
                tokio::select! {
                    _ = beat.tick() => {
                        let telemetry = report::Kind::Telemetry(record(seq));
                        let heartbeat = report::Kind::Heartbeat(Heartbeat { seq, ..Heartbeat::default() });
                        // As an agent: what is said goes first, and both are messages of their own.
                        for kind in [heartbeat, telemetry] {
                            let reports = vec![Report { kind: Some(kind) }];
                            if send.send(ToOverseer { reports }).await.is_err() {
                                return;
                            }
                        }
                        seq += 1;
                    }
                    message = orders.message() => match message {
                        Ok(Some(_)) => {}
                        _ => return,
                    },
                }
            }
        });
    }

    /// Ends all of them.
    pub async fn end(mut self) {
        self.labors.shutdown().await;
    }
}

/// A batch of one line of text.
fn record(seq: u64) -> Telemetry {
    let text = format!("step {seq} of many is done, and the next one has begun on this labor");
    let mut record = vec![3u8];
    record.extend([0; 16]);
    record.extend(0u16.to_le_bytes());
    record.extend(text.as_bytes());
    let mut records = (record.len() as u32).to_le_bytes().to_vec();
    records.extend(record);
    Telemetry { first_seq: seq, count: 1, dropped: 0, records: records.into() }
}
