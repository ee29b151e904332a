use std::collections::{BTreeMap, HashMap};

use overseer_protocol::{Generation, LaborId};

use crate::NodeKey;

/// Labors that an [`Over`] knows.
const LABORS: usize = 4096;

/// Lives that were asked to end, for an adapter that refuses to make a node of one.
///
/// Of the labors whose end was asked for longest ago nothing is known any more, so that this does
/// not grow for ever. Nothing is lost by that: it is for a request that is overtaken by the end of
/// its own life, and one that comes thousands of ends late is ended by the fleet that sent it.
/// Not the oldest ids go, for those are the labors that live longest and have the most lives.
#[derive(Debug, Default)]
pub struct Over {
    /// The last life that is over, and when it was asked to end.
    lives: HashMap<LaborId, (Generation, u64)>,
    order: BTreeMap<u64, LaborId>,
    count: u64,
}

impl Over {
    /// This life and those before it are over.
    pub fn add(&mut self, key: &NodeKey) {
        let mut generation = key.generation;
        if let Some((before, number)) = self.lives.remove(&key.labor) {
            generation = generation.max(before);
            self.order.remove(&number);
        }
        self.count += 1;
        self.lives.insert(key.labor, (generation, self.count));
        self.order.insert(self.count, key.labor);
        if self.lives.len() > LABORS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.lives.remove(&oldest);
        }
    }

    /// Whether this life, or a later one of its labor, was asked to end.
    pub fn has(&self, key: &NodeKey) -> bool {
        self.lives.get(&key.labor).is_some_and(|(over, _)| *over >= key.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(labor: usize, generation: u32) -> NodeKey {
        let labor = LaborId::new(1, labor as u128);
        NodeKey { fleet: "farm".parse().unwrap(), labor, generation: Generation(generation) }
    }

    #[test]
    fn a_life_and_those_before_it_are_over_and_later_ones_are_not() {
        let mut over = Over::default();
        assert!(!over.has(&key(1, 1)));
        over.add(&key(1, 3));
        over.add(&key(1, 2));
        for (generation, expected) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(over.has(&key(1, generation)), expected, "{generation}");
        }
        assert!(!over.has(&key(2, 1)));
    }

    #[test]
    fn what_was_ended_longest_ago_goes_and_not_the_oldest_labor() {
        let mut over = Over::default();
        for labor in 0..LABORS {
            over.add(&key(labor, 1));
        }
        over.add(&key(0, 2));
        for labor in LABORS..LABORS + 10 {
            over.add(&key(labor, 1));
        }
        assert_eq!((over.lives.len(), over.order.len()), (LABORS, LABORS));
        assert!(over.has(&key(0, 2)));
        assert!(!over.has(&key(1, 1)) && !over.has(&key(10, 1)) && over.has(&key(11, 1)));
    }
}
