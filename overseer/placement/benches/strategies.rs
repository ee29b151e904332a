//! `cargo bench -p overseer-placement`: how long a plan takes, beside one step for each unit in the same
//! run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use overseer_placement::{Candidate, Strategy, Utilisation, plan};

const TURNS: usize = 21;

fn main() {
    println!("{:<34} {:>10} {:>12} {:>7} {:>8}", "median of 21", "ours", "unit by unit", "ratio", "goal");
    for (units, hosts, goal) in [(50_000, 10_000, "5 ms"), (250_000, 50_000, "25 ms")] {
        let hosts: Vec<Candidate> = (0..hosts).map(candidate).collect();
        for strategy in [Strategy::Auto, Strategy::Global] {
            let ours = median(|| drop(black_box(plan(strategy, black_box(&hosts), units, 0))));
            let each = median(|| drop(black_box(unit_by_unit(strategy, black_box(&hosts), units))));
            let name = format!("{strategy}, {units} on {} hosts", hosts.len());
            let (ours, each) = (millis(ours), millis(each));
            println!("{name:<34} {ours:>7.2} ms {each:>9.2} ms {:>7.2} {goal:>8}", ours / each);
        }
    }
}

/// Neither all alike nor in order.
fn candidate(n: u64) -> Candidate {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    Candidate {
        capacity: 5 + mixed % 60,
        count: mixed % 17,
        usage: Utilisation::of(mixed % 97, 100),
        rate: Utilisation::of(1 + mixed % 7, 200),
    }
}

/// The least of a heap, for each unit.
fn unit_by_unit(strategy: Strategy, hosts: &[Candidate], units: u64) -> Vec<u64> {
    let mut placed = vec![0; hosts.len()];
    let rank = |n: usize, placed: u64| match strategy {
        Strategy::Global => (hosts[n].usage.0 + (placed + 1) * hosts[n].rate.0, Reverse(0)),
        _ => (hosts[n].count + placed, Reverse(hosts[n].capacity - placed)),
    };
    let first = (0..hosts.len()).filter(|&n| hosts[n].capacity > 0).map(|n| Reverse((rank(n, 0), n)));
    let mut heap: BinaryHeap<_> = first.collect();
    for _ in 0..units {
        let Some(Reverse((_, n))) = heap.pop() else { break };
        placed[n] += 1;
        if placed[n] < hosts[n].capacity {
            heap.push(Reverse((rank(n, placed[n]), n)));
        }
    }
    placed
}

fn median(work: impl Fn()) -> Duration {
    let mut took: Vec<Duration> = (0..TURNS)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[TURNS / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
