//! What a user of the library notices, against real agents, plugin hosts and TLS.
#![allow(clippy::unwrap_used)]

mod callbacks;
mod calls;
mod cut_off;
mod disks;
mod ends;
mod huge;
mod invited;
mod kills;
mod leaves;
mod logs;
mod metrics;
mod old_life;
mod orphans;
mod owner;
mod payloads;
mod planes;
mod programs;
mod queues;
mod recovery;
mod releases;
mod restarts;
mod runs;
mod shipping;
mod starts;
mod swallowed;
mod tasks;
mod telemetry;
