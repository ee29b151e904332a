//! Strategies, and what each of them means.

use std::fmt;
use std::str::FromStr;

use crate::levels;

/// How units are spread over hosts.
///
/// Hosts that a strategy takes for equal are taken in the order in which they were given, so an answer
/// is never a matter of chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Evens out how many there are on each host: a unit goes where fewest are, and of those where most
    /// more would fit. `limit`: most on one host, with those that are there.
    Auto,
    /// Fills hosts up to so many on each: those first that need fewest, and of those where most more would
    /// fit. One that has as many already counts. `limit`: on so many hosts; without it on all of them.
    Fill,
    /// So many more on each of some hosts, where most more would fit. `limit`: on so many hosts; without
    /// it on all of them.
    Each,
    /// Evens out utilisation: a unit goes where that is least with it. `limit`: most new ones on one host.
    Global,
    /// Packs the fullest first: a unit goes where fewest more would fit, and of those where utilisation is
    /// highest. `limit`: most new ones on one host.
    Drained,
}

/// All of them, as they are written.
const NAMES: [(&str, Strategy); 5] = [
    ("AUTO", Strategy::Auto),
    ("FILL", Strategy::Fill),
    ("EACH", Strategy::Each),
    ("GLOBAL", Strategy::Global),
    ("DRAINED", Strategy::Drained),
];

/// A text that names no strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no strategy {0:?}; use AUTO, FILL, EACH, GLOBAL or DRAINED")]
pub struct UnknownStrategy(String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        named.map(|(_, strategy)| *strategy).ok_or_else(|| UnknownStrategy(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, strategy)| strategy == self).map_or("", |(name, _)| name))
    }
}

/// A share of a host, in units of 10⁻¹⁵: one is all of it. An oversold host has more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Utilisation(pub u64);

impl Utilisation {
    /// All of a host.
    pub const WHOLE: Self = Self(1_000_000_000_000_000);

    /// `part` of `whole`, rounded down; a host that has nothing is used up by anything.
    pub fn of(part: u64, whole: u64) -> Self {
        let whole = u128::from(whole);
        let scaled = u128::from(part) * u128::from(Self::WHOLE.0);
        let share = scaled.checked_div(whole).unwrap_or(if part == 0 { 0 } else { u128::MAX });
        Self(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidate {
    /// How many more units fit, all of their dimensions together.
    pub capacity: u64,
    /// How many there are.
    pub count: u64,
    /// How much of it is in use.
    pub usage: Utilisation,
    /// How much of it one unit more takes.
    pub rate: Utilisation,
}

/// Why units do not go on the hosts that there are. Nothing is placed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoesNotFit {
    /// There is no room for all of them.
    #[error("{need} are to be placed, and {fit} fit; ask for fewer, or add hosts")]
    Room {
        /// How many were asked for.
        need: u64,
        /// How many fit.
        fit: u64,
    },
    /// Too few hosts have room for as many as each is to have.
    #[error("{able} hosts have room for {each} each, and {wanted} are wanted; ask for fewer, or add hosts")]
    Hosts {
        /// On so many hosts.
        wanted: u64,
        /// So many have room.
        able: u64,
        /// So many on each.
        each: u64,
    },
    /// All have as many as they are to have.
    #[error("{hosts} hosts have {each} each already; there is nothing to place")]
    Filled {
        /// So many hosts.
        hosts: u64,
        /// So many on each.
        each: u64,
    },
    /// None was asked for.
    #[error("nothing is to be placed; ask for one at least")]
    Nothing,
}

impl DoesNotFit {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Room { .. } => "placement.no_room",
            Self::Hosts { .. } => "placement.too_few_hosts",
            Self::Filled { .. } => "placement.filled",
            Self::Nothing => "placement.nothing",
        }
    }
}

/// How many units go on each host, in their order. `need` and `limit` are what the [`Strategy`] says of
/// them; a limit of 0 is none. The cost does not grow with the units.
///
/// # Errors
/// [`DoesNotFit`]: all are placed, or none.
pub fn plan(strategy: Strategy, hosts: &[Candidate], need: u64, limit: u64) -> Result<Vec<u64>, DoesNotFit> {
    if need == 0 {
        return Err(DoesNotFit::Nothing);
    }
    match strategy {
        Strategy::Auto => {
            let room = rooms(hosts, need, |host| {
                let most = if limit == 0 { u64::MAX } else { limit };
                most.saturating_sub(host.count)
            })?;
            Ok(levels::by_count(hosts, &room, need))
        }
        Strategy::Global => Ok(levels::by_utilisation(hosts, &new_rooms(hosts, need, limit)?, need)),
        Strategy::Drained => Ok(drained(hosts, &new_rooms(hosts, need, limit)?, need)),
        Strategy::Each => on_each(hosts, limit, need, |host| (host.capacity >= need).then_some(need)),
        Strategy::Fill => on_each(hosts, limit, need, |host| {
            let missing = need.saturating_sub(host.count);
            (host.capacity >= missing).then_some(missing)
        }),
    }
}

/// How many may go on each host; all that are needed fit.
fn rooms(hosts: &[Candidate], need: u64, most: impl Fn(&Candidate) -> u64) -> Result<Vec<u64>, DoesNotFit> {
    let rooms: Vec<u64> = hosts.iter().map(|host| host.capacity.min(most(host))).collect();
    let fit = rooms.iter().fold(0, |sum: u64, room| sum.saturating_add(*room));
    if fit < need { Err(DoesNotFit::Room { need, fit }) } else { Ok(rooms) }
}

fn new_rooms(hosts: &[Candidate], need: u64, limit: u64) -> Result<Vec<u64>, DoesNotFit> {
    rooms(hosts, need, |_| if limit == 0 { u64::MAX } else { limit })
}

fn drained(hosts: &[Candidate], room: &[u64], need: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    order.sort_by_key(|&n| (hosts[n].capacity, std::cmp::Reverse(hosts[n].usage)));
    let (mut placed, mut left) = (vec![0; hosts.len()], need);
    for n in order {
        placed[n] = room[n].min(left);
        left -= placed[n];
    }
    placed
}

/// The same on so many hosts: those that miss fewest, and of those where most more would fit.
fn on_each(
    hosts: &[Candidate],
    limit: u64,
    each: u64,
    missing: impl Fn(&Candidate) -> Option<u64>,
) -> Result<Vec<u64>, DoesNotFit> {
    let mut able: Vec<(usize, u64)> =
        hosts.iter().enumerate().filter_map(|(n, host)| Some((n, missing(host)?))).collect();
    let wanted = if limit == 0 { hosts.len() as u64 } else { limit };
    if wanted == 0 || (able.len() as u64) < wanted {
        return Err(DoesNotFit::Hosts { wanted, able: able.len() as u64, each });
    }
    able.sort_by_key(|&(n, missing)| (missing, std::cmp::Reverse(hosts[n].capacity)));
    able.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    if able.iter().all(|(_, missing)| *missing == 0) {
        return Err(DoesNotFit::Filled { hosts: wanted, each });
    }
    let mut placed = vec![0; hosts.len()];
    able.into_iter().for_each(|(n, missing)| placed[n] = missing);
    Ok(placed)
}

#[cfg(test)]
#[path = "strategy_tests.rs"]
mod tests;
