//! What does not fit together: the labors of a fleet, the nodes that its adapter has, the sessions
//! that are open and the records in the store. One rule for each way of not fitting, none of which
//! acts on what it has seen only once: what is on its way right now looks the same.

use std::collections::{BTreeMap, BTreeSet};

use overseer_protocol::LaborState;
use serde::Serialize;

use super::Life;

/// What is there at one time. A node or record may have come or gone since it was read.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The labors' present lives.
    pub labors: BTreeMap<Life, LaborState>,
    /// Nodes of the adapter.
    pub nodes: BTreeSet<Life>,
    /// Lives whose node the adapter is being asked for.
    pub asked_for: BTreeSet<Life>,
    /// Lives with an open session.
    pub sessions: BTreeSet<Life>,
    /// Records in the store.
    pub records: BTreeSet<Life>,
    /// Labors on machines that were invited, which no adapter has: their lease tells.
    pub invited: BTreeSet<Life>,
}

/// One thing that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Finding {
    /// A labor should have a node and has neither node nor session: that life is over.
    IntentWithoutMachine(Life),
    /// The adapter has a node that no labor is on: it is ended.
    MachineWithoutIntent(Life),
    /// A session of a life that is over: it is closed.
    SessionWithoutLabor(Life),
    /// A record of a labor that the fleet does not have: it is removed.
    RecordWithoutLabor(Life),
}

impl Finding {
    /// What it is about.
    pub fn life(&self) -> Life {
        match self {
            Self::IntentWithoutMachine(life)
            | Self::MachineWithoutIntent(life)
            | Self::SessionWithoutLabor(life)
            | Self::RecordWithoutLabor(life) => *life,
        }
    }

    /// The name of its rule.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::IntentWithoutMachine(_) => "intent_without_machine",
            Self::MachineWithoutIntent(_) => "machine_without_intent",
            Self::SessionWithoutLabor(_) => "session_without_labor",
            Self::RecordWithoutLabor(_) => "record_without_labor",
        }
    }

    /// Whether acting on it ends a node or gives one up.
    pub fn ends_something(&self) -> bool {
        matches!(self, Self::IntentWithoutMachine(_) | Self::MachineWithoutIntent(_))
    }
}

/// How carefully is acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Care {
    /// A finding is acted on when so many looks in a row have seen it.
    pub looks: u32,
    /// Ends in one pass; the rest waits for the next one.
    pub at_once: usize,
    /// When more than this share of all nodes, in percent, would be ended, and more than
    /// `brake_above`, nothing is: an adapter or a store that shows too little is more likely.
    pub brake_percent: usize,
    /// See `brake_percent`.
    pub brake_above: usize,
}

impl Default for Care {
    fn default() -> Self {
        Self { looks: 2, at_once: 16, brake_percent: 30, brake_above: 3 }
    }
}

/// What one pass comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Everything that does not fit, whether it is acted on or not.
    pub found: Vec<Finding>,
    /// What is acted on now.
    pub act: Vec<Finding>,
    /// Nothing is ended: so many would be, of so many nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub braked: Option<(usize, usize)>,
}

/// Remembers what earlier passes have seen.
#[derive(Debug, Default)]
pub struct Reconciler {
    seen: BTreeMap<Finding, u32>,
}

impl Reconciler {
    /// Looks at everything once. With `force` the brake does not hold, for somebody has looked.
    pub fn pass(&mut self, inventory: &Inventory, care: &Care, force: bool) -> Pass {
        let found = findings(inventory);
        self.seen.retain(|finding, _| found.contains(finding));
        for finding in &found {
            *self.seen.entry(*finding).or_default() += 1;
        }
        let sure = |finding: &&Finding| self.seen.get(finding).is_some_and(|n| *n >= care.looks);
        let (ends, others): (Vec<Finding>, Vec<Finding>) =
            found.iter().filter(sure).partition(|finding| finding.ends_something());
        let nodes = inventory.nodes.union(&inventory.labors.keys().copied().collect()).count();
        let too_many = ends.len() > care.brake_above && ends.len() * 100 > nodes * care.brake_percent;
        let braked = (too_many && !force).then_some((ends.len(), nodes));
        let ends = ends.into_iter().take(if braked.is_some() { 0 } else { care.at_once });
        let act: Vec<Finding> = others.into_iter().chain(ends).collect();
        for finding in &act {
            // It is not acted on again before it has been seen anew.
            self.seen.remove(finding);
        }
        Pass { found: found.into_iter().collect(), act, braked }
    }

    /// What a pass would find, without remembering anything.
    pub fn look(inventory: &Inventory) -> Vec<Finding> {
        findings(inventory).into_iter().collect()
    }
}

fn findings(inventory: &Inventory) -> BTreeSet<Finding> {
    let Inventory { labors, nodes, asked_for, sessions, records, invited } = inventory;
    let mut found = BTreeSet::new();
    for (life, state) in labors {
        // One that has a session lives, whatever an inventory says that lags behind.
        let there = nodes.contains(life) || sessions.contains(life) || asked_for.contains(life);
        if needs_node(*state) && !there && !invited.contains(life) {
            found.insert(Finding::IntentWithoutMachine(*life));
        }
    }
    for life in nodes {
        if !labors.contains_key(life) && !asked_for.contains(life) {
            found.insert(Finding::MachineWithoutIntent(*life));
        }
    }
    for life in sessions {
        if !labors.contains_key(life) {
            found.insert(Finding::SessionWithoutLabor(*life));
        }
    }
    let known: BTreeSet<_> = labors.keys().map(|life| life.labor).collect();
    for life in records {
        if !known.contains(&life.labor) {
            found.insert(Finding::RecordWithoutLabor(*life));
        }
    }
    found
}

/// Whether a labor in this state is on a node for sure.
fn needs_node(state: LaborState) -> bool {
    match state {
        LaborState::Booting
        | LaborState::Joining
        | LaborState::Connected
        | LaborState::Loading
        | LaborState::Loaded
        | LaborState::Ready
        | LaborState::Lost
        | LaborState::Draining => true,
        // Its own deadlines look after it: it may have no node yet, or none any more.
        LaborState::Requested | LaborState::Terminating | LaborState::Backoff | LaborState::Terminated => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use overseer_protocol::{Generation, LaborId};

    use super::*;

    fn life(n: u128) -> Life {
        Life { labor: LaborId::new(1, n), generation: Generation::FIRST }
    }

    fn all_well(count: u128) -> Inventory {
        let lives: BTreeSet<Life> = (0..count).map(life).collect();
        Inventory {
            labors: lives.iter().map(|l| (*l, LaborState::Ready)).collect(),
            nodes: lives.clone(),
            asked_for: BTreeSet::new(),
            sessions: lives.clone(),
            records: lives,
            invited: BTreeSet::new(),
        }
    }

    /// What two looks in a row come to.
    fn twice(inventory: &Inventory) -> Pass {
        let mut reconciler = Reconciler::default();
        let first = reconciler.pass(inventory, &Care::default(), false);
        assert_eq!(first.act, [], "nothing is done at first sight");
        reconciler.pass(inventory, &Care::default(), false)
    }

    #[test]
    fn what_fits_together_is_left_alone() {
        assert_eq!(twice(&all_well(5)), Pass::default());
    }

    #[test]
    fn each_way_of_not_fitting_has_its_rule() {
        let mut inventory = all_well(20);
        // A crash that nobody has told; one that only the inventory does not show; one on its way.
        for n in [0, 1, 2] {
            inventory.nodes.remove(&life(n));
        }
        inventory.sessions.remove(&life(0));
        inventory.sessions.remove(&life(2));
        inventory.labors.insert(life(2), LaborState::Requested);
        inventory.nodes.insert(life(100));
        inventory.nodes.insert(life(101));
        inventory.asked_for.insert(life(101));
        inventory.sessions.insert(life(102));
        inventory.records.insert(life(103));
        let pass = twice(&inventory);
        assert_eq!(
            pass.act,
            [
                Finding::SessionWithoutLabor(life(102)),
                Finding::RecordWithoutLabor(life(103)),
                Finding::IntentWithoutMachine(life(0)),
                Finding::MachineWithoutIntent(life(100)),
            ]
        );
        assert_eq!(pass.braked, None);
    }

    #[test]
    fn a_machine_that_was_invited_needs_no_node() {
        let mut inventory = all_well(5);
        for n in [0, 1] {
            inventory.nodes.remove(&life(n));
            inventory.sessions.remove(&life(n));
        }
        inventory.invited.insert(life(0));
        assert_eq!(twice(&inventory).found, [Finding::IntentWithoutMachine(life(1))]);
        // One that is over is a stranger as any other.
        inventory.nodes.insert(life(1));
        inventory.labors.remove(&life(0));
        inventory.records.remove(&life(0));
        inventory.sessions.insert(life(0));
        assert_eq!(twice(&inventory).found, [Finding::SessionWithoutLabor(life(0))]);
    }

    #[test]
    fn a_node_of_an_older_life_is_a_stranger() {
        let mut inventory = all_well(2);
        let next = Life { generation: Generation(2), ..life(0) };
        inventory.labors.remove(&life(0));
        inventory.labors.insert(next, LaborState::Requested);
        inventory.sessions.remove(&life(0));
        assert_eq!(twice(&inventory).act, [Finding::MachineWithoutIntent(life(0))]);
    }

    #[test]
    fn what_was_seen_with_a_gap_between_is_seen_for_the_first_time() {
        let (well, mut ill) = (all_well(3), all_well(3));
        ill.nodes.insert(life(9));
        let mut reconciler = Reconciler::default();
        for inventory in [&ill, &well, &ill] {
            assert_eq!(reconciler.pass(inventory, &Care::default(), false).act, []);
        }
        assert_eq!(reconciler.pass(&ill, &Care::default(), false).act.len(), 1);
        assert_eq!(reconciler.pass(&ill, &Care::default(), false).act, [], "its end takes its time");
    }

    #[test]
    fn an_inventory_that_shows_nothing_ends_nothing_unless_somebody_says_so() {
        let mut empty = all_well(50);
        empty.nodes.clear();
        empty.sessions.clear();
        let mut reconciler = Reconciler::default();
        for _ in 0..5 {
            let pass = reconciler.pass(&empty, &Care::default(), false);
            assert_eq!(pass.act, []);
            assert_eq!(pass.found.len(), 50);
        }
        assert_eq!(reconciler.pass(&empty, &Care::default(), false).braked, Some((50, 50)));
        let forced = reconciler.pass(&empty, &Care::default(), true);
        assert_eq!(forced.act.len(), Care::default().at_once, "not all at once");
        let next = reconciler.pass(&empty, &Care::default(), true);
        assert_eq!(next.act.len(), 2 * Care::default().at_once - Care::default().at_once);
    }
}
