//! Faults in the processes and connections of a fleet.

use crate::processes::{self, Role};
use crate::proxy::Cables;
use crate::{eventually, within};
use overseer::{FleetHandle, Labor, LaborState};
use parking_lot::Mutex;
use rustix::process::Signal;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An agent is killed.
    KillAgent,
    /// A plugin host is killed.
    KillHost,
    /// A labor's connections are cut.
    Cut,
    /// An agent is stopped; it goes on soon, or after it was given up for lost.
    Freeze,
    /// A labor is ended, and another one asked for.
    Terminate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::KillAgent, Self::KillHost, Self::Cut, Self::Freeze, Self::Terminate];
}

/// Numbers that a seed gives again.
pub struct Random {
    seed: u64,
    chance: overseer::core::Random,
}

impl Random {
    /// Of `FAULT_SEED`, or of the clock.
    pub fn from_environment() -> Self {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap_or_default().as_nanos() as u64 % 1_000_000
        };
        let given = std::env::var("FAULT_SEED").ok();
        Self::new(given.map_or_else(clock, |seed| seed.parse().expect("FAULT_SEED is a number")))
    }

    /// Of this seed.
    pub fn new(seed: u64) -> Self {
        // A seed of nothing but small bits would give small numbers first.
        Self { seed, chance: overseer::core::Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }

    /// What gives them again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next one.
    pub fn bits(&mut self) -> u64 {
        self.chance.bits()
    }

    /// The next one below this.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.bits() >> 32) as usize) % bound
    }
}

/// Does them to one fleet.
pub struct Steps {
    fleet: FleetHandle,
    cables: Cables,
    /// Agents that are stopped, to be continued by a later step.
    frozen: Mutex<Vec<i32>>,
}

impl Steps {
    /// To the labors of this fleet, over these cables.
    pub fn new(fleet: &FleetHandle, cables: Cables) -> Self {
        Self { fleet: fleet.clone(), cables, frozen: Mutex::default() }
    }

    /// One fault on a labor that is ready; false when it found nothing to hit.
    pub async fn take(&self, kind: Kind, random: &mut Random) -> bool {
        let luck = random.below(3);
        let pick = random.bits() as usize;
        if luck == 0 {
            self.thaw();
        }
        let labor = eventually("a labor that is ready", async || {
            let labors = self.fleet.which_children();
            let ready: Vec<&Labor> =
                labors.iter().filter(|l| l.status().state == LaborState::Ready).collect();
            if ready.is_empty() {
                self.thaw();
            }
            ready.get(pick % ready.len().max(1)).map(|l| (*l).clone())
        })
        .await;
        let process = |role| processes::one(self.fleet.name(), labor.id(), role);
        match kind {
            Kind::KillAgent => self.signal(process(Role::Agent), Signal::KILL),
            Kind::KillHost => self.signal(process(Role::Host), Signal::KILL),
            Kind::Cut => self.cables.cut(labor.id()) > 0,
            Kind::Freeze => {
                let Some(agent) = process(Role::Agent) else { return false };
                let life = labor.status().generation;
                processes::signal(agent, Signal::STOP);
                match luck {
                    0 => processes::signal(agent, Signal::CONT),
                    1 => {
                        let seen =
                            |s: &overseer::Status| s.state != LaborState::Ready || s.generation != life;
                        within("it is missed", labor.wait_for(seen)).await;
                        processes::signal(agent, Signal::CONT);
                    }
                    _ => self.frozen.lock().push(agent),
                }
                true
            }
            Kind::Terminate => {
                self.fleet.terminate_child(labor.id());
                within("its end", labor.terminated()).await;
                self.fleet.start_child().await.expect("its slot is free");
                true
            }
        }
    }

    fn signal(&self, pid: Option<i32>, signal: Signal) -> bool {
        pid.map(|pid| processes::signal(pid, signal)).is_some()
    }

    /// Nothing is held up any more.
    pub fn thaw(&self) {
        for pid in self.frozen.lock().drain(..) {
            processes::signal(pid, Signal::CONT);
        }
    }
}
