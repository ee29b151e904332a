//! What is done to the processes and connections of a fleet, from outside of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overseer::FleetName;
use rustix::process::Signal;
use serde::Serialize;
use tokio::task::JoinSet;

use super::link::Link;
use super::server::Ask;
use crate::cable::Cable;
use crate::processes::{self, Role};
use crate::steps::Random;

/// The kinds of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An agent is killed.
    KillAgent,
    /// A plugin host is killed.
    KillHost,
    /// An agent is stopped for a while, which may be longer than it may be silent.
    Freeze,
    /// The connections of some labors are cut.
    Cut,
    /// A labor is ended and another one started.
    Replace,
    /// The server is killed and started again.
    KillServer,
}

/// How often each comes, in parts of the whole.
const WEIGHTS: [(Fault, usize); 6] = [
    (Fault::KillAgent, 5),
    (Fault::KillHost, 5),
    (Fault::Freeze, 4),
    (Fault::Cut, 4),
    (Fault::Replace, 3),
    (Fault::KillServer, 2),
];
/// Longest time for which an agent is stopped: silence and grace are six seconds.
const FROZEN_MS: usize = 8000;

pub(super) struct Faults {
    fleet: FleetName,
    cables: Vec<Cable>,
    link: Arc<Link>,
    /// What goes on by itself: agents that are stopped, labors that are being replaced.
    beside: JoinSet<()>,
    pub(super) done: BTreeMap<Fault, usize>,
}

impl Faults {
    pub(super) fn new(fleet: FleetName, cables: Vec<Cable>, link: Arc<Link>) -> Self {
        Self { fleet, cables, link, beside: JoinSet::new(), done: BTreeMap::new() }
    }

    /// Which comes next.
    pub(super) fn pick(random: &mut Random) -> Fault {
        let mut at = random.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in WEIGHTS {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return fault,
            }
        }
        Fault::KillAgent
    }

    /// Notes that one was done.
    pub(super) fn count(&mut self, fault: Fault) {
        *self.done.entry(fault).or_default() += 1;
    }

    /// Does one that does not need the server's process.
    pub(super) fn make(&mut self, fault: Fault, random: &mut Random) {
        while self.beside.try_join_next().is_some() {}
        let all = processes::of(&self.fleet);
        let mut one = |role| {
            let those: Vec<_> = all.iter().filter(|p| p.role == role).collect();
            (!those.is_empty()).then(|| those[random.below(those.len())].clone())
        };
        let hit = match fault {
            Fault::KillAgent => one(Role::Agent).map(|agent| processes::signal(agent.pid, Signal::KILL)),
            Fault::KillHost => one(Role::Host).map(|host| processes::signal(host.pid, Signal::KILL)),
            Fault::Freeze => one(Role::Agent).map(|agent| {
                let time = Duration::from_millis(random.below(FROZEN_MS) as u64);
                processes::signal(agent.pid, Signal::STOP);
                self.beside.spawn(async move {
                    tokio::time::sleep(time).await;
                    processes::signal(agent.pid, Signal::CONT);
                });
            }),
            Fault::Cut => {
                let cable = random.below(self.cables.len());
                (self.cables[cable].cut() > 0).then_some(())
            }
            Fault::Replace => one(Role::Agent).map(|agent| {
                let link = Arc::clone(&self.link);
                // The next server starts what is missing where this one is killed meanwhile.
                self.beside.spawn(async move { drop(link.once(&Ask::Replace(agent.labor)).await) });
            }),
            Fault::KillServer => None,
        };
        if hit.is_some() {
            self.count(fault);
        }
    }

    /// Waits until nothing of it goes on.
    pub(super) async fn end(&mut self) {
        while self.beside.join_next().await.is_some() {}
    }
}
