//! Units that go one by one where least is, without going one by one: all up to a level at once, and what
//! is left above it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::strategy::Candidate;

/// A unit goes where fewest are, and of those where most more would fit. `room` holds all of them.
pub(crate) fn by_count(hosts: &[Candidate], room: &[u64], need: u64) -> Vec<u64> {
    // The highest level up to which no more than are needed are placed.
    let up_to = |level: u64| {
        let placed = hosts.iter().zip(room).map(|(host, room)| level.saturating_sub(host.count).min(*room));
        placed.map(u128::from).sum::<u128>()
    };
    let level = highest(|level| up_to(level) <= u128::from(need));
    let mut placed: Vec<u64> =
        hosts.iter().zip(room).map(|(host, room)| level.saturating_sub(host.count).min(*room)).collect();
    let left = need - placed.iter().sum::<u64>();
    if left == 0 {
        return placed;
    }
    // One more each on some of those that are at the level.
    let mut next: Vec<usize> =
        (0..hosts.len()).filter(|&n| hosts[n].count + placed[n] == level && placed[n] < room[n]).collect();
    next.sort_by_key(|&n| Reverse(hosts[n].capacity - placed[n]));
    next.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)).for_each(|n| placed[n] += 1);
    placed
}

/// A unit goes where utilisation is least with it. `room` holds all of them.
pub(crate) fn by_utilisation(hosts: &[Candidate], room: &[u64], need: u64) -> Vec<u64> {
    let below =
        |level: u128| hosts.iter().zip(room).map(move |(host, room)| units_below(host, level).min(*room));
    let up_to = |level: u128| below(level).map(u128::from).sum::<u128>();
    // What a level leaves is placed one by one: it need not be the highest.
    let level = level_near(hosts, room, u128::from(need), up_to);
    let mut placed: Vec<u64> = below(level).collect();
    let mut left = need - placed.iter().sum::<u64>();
    let after = |n: usize, placed: u64| {
        let units = u128::from(placed) + 1;
        u128::from(hosts[n].usage.0) + units * u128::from(hosts[n].rate.0)
    };
    let mut next: BinaryHeap<Reverse<(u128, usize)>> = (0..hosts.len())
        .filter(|&n| placed[n] < room[n])
        .map(|n| Reverse((after(n, placed[n]), n)))
        .collect();
    while left > 0 {
        let Some(Reverse((_, n))) = next.pop() else { break };
        // Of units that take nothing all go at once.
        let units = if hosts[n].rate.0 == 0 { left.min(room[n] - placed[n]) } else { 1 };
        placed[n] += units;
        left -= units;
        if placed[n] < room[n] {
            next.push(Reverse((after(n, placed[n]), n)));
        }
    }
    placed
}

/// How many units a host could take and stay below a level.
fn units_below(host: &Candidate, level: u128) -> u64 {
    let (usage, rate) = (u128::from(host.usage.0), host.rate.0);
    match level.checked_sub(usage + 1) {
        None => 0,
        Some(_) if rate == 0 => u64::MAX,
        // As a rule; and a division of so many bits is slow.
        Some(free) => match u64::try_from(free) {
            Ok(free) => free / rate,
            Err(_) => u64::try_from(free / u128::from(rate)).unwrap_or(u64::MAX),
        },
    }
}

/// A level below which no more than `need` are placed, and no fewer than that by more than there are hosts,
/// unless one step of it places more.
fn level_near(hosts: &[Candidate], room: &[u64], need: u128, below: impl Fn(u128) -> u128) -> u128 {
    let near = hosts.len() as u128;
    let full = |(host, room): (&Candidate, &u64)| {
        u128::from(host.usage.0).saturating_add(u128::from(*room) * u128::from(host.rate.0)).saturating_add(1)
    };
    let (mut low, mut at_low) = (0, 0);
    let mut high = hosts.iter().zip(room).map(full).max().unwrap_or(0);
    let mut at_high = below(high);
    if at_high <= need {
        return high;
    }
    let mut halve = false;
    while need - at_low > near && high - low > 1 {
        // By turns where a line would have it, and in the middle.
        let (span, part) = ((high - low) as f64, (need - at_low) as f64 / (at_high - at_low) as f64);
        let step = if halve { (high - low) / 2 } else { (span * part) as u128 };
        let at = low + step.clamp(1, high - low - 1);
        match below(at) {
            placed if placed <= need => (low, at_low) = (at, placed),
            placed => (high, at_high) = (at, placed),
        }
        halve = !halve;
    }
    low
}

/// The highest number for which it holds; it holds for 0, and for all below one for which it does.
fn highest(holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high, mut step) = (0u64, u64::MAX, 1u64);
    // First far enough up, for what is looked for is not far as a rule.
    while low < high {
        let at = low.saturating_add(step).min(high);
        if !holds(at) {
            high = at - 1;
            break;
        }
        (low, step) = (at, step.saturating_mul(2));
    }
    while low < high {
        let at = low + (high - low).div_ceil(2);
        if holds(at) {
            low = at;
        } else {
            high = at - 1;
        }
    }
    low
}
