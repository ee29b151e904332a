//! A server: the cores, and what its shells keep in memory. All of it is gone when it dies.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use overseer::core::{Backoff, FleetCore, Life, Millis, Options, Reconciler, TaskCore};
use overseer::{LaborId, TaskId};
use overseer_protocol::SessionId;

use super::store::{Labor, Write};

/// One life of the server.
pub(super) struct Server {
    /// Which one: what belongs to an older one is lost.
    pub(super) epoch: u64,
    pub(super) started: Millis,
    pub(super) fleet: FleetCore,
    pub(super) tasks: TaskCore,
    pub(super) reconciler: Reconciler,
    pub(super) sessions: BTreeMap<SessionId, Life>,
    /// The newest record of each labor that has been written or is about to be.
    pub(super) latest: BTreeMap<LaborId, Labor>,
    /// Writes of labors, one after the other.
    pub(super) labor_writes: VecDeque<Write>,
    /// Writes of tasks, all at once, at most one for each.
    pub(super) task_writes: BTreeMap<TaskId, Write>,
    /// Lives whose node the adapter is being asked for; whether their end has begun.
    pub(super) asked_for: BTreeMap<Life, bool>,
}

pub(super) fn options() -> Options {
    Options {
        max_nodes: 6,
        intensity: 1_000_000,
        backoff: Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(5) },
        ..Options::default()
    }
}

impl Server {
    pub(super) fn new(epoch: u64, started: Millis, seed: u64) -> Self {
        Self {
            epoch,
            started,
            fleet: FleetCore::new(options(), seed),
            tasks: TaskCore::new(options().backoff, seed),
            reconciler: Reconciler::default(),
            sessions: BTreeMap::new(),
            latest: BTreeMap::new(),
            labor_writes: VecDeque::new(),
            task_writes: BTreeMap::new(),
            asked_for: BTreeMap::new(),
        }
    }

    /// The fleet's own clock.
    pub(super) fn clock(&self, now: Millis) -> Millis {
        now - self.started
    }

    pub(super) fn is_present(&self, life: Life) -> bool {
        self.fleet.labors().any(|(present, _)| present == life)
    }

    pub(super) fn session_of(&self, life: Life) -> Option<SessionId> {
        self.sessions.iter().filter(|(_, of)| **of == life).map(|(id, _)| *id).max()
    }
}
