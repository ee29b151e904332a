use std::cmp::Reverse;

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::{Candidate, DoesNotFit, NAMES, Strategy, Utilisation, plan};

fn host(capacity: u64, count: u64) -> Candidate {
    Candidate { capacity, count, ..Candidate::default() }
}

/// One unit after the other, each where it is to go: what the strategies mean.
fn one_by_one(strategy: Strategy, hosts: &[Candidate], need: u64, limit: u64) -> Option<Vec<u64>> {
    let mut placed = vec![0; hosts.len()];
    for _ in 0..need {
        let has_room = |n: &usize| {
            let (host, new) = (&hosts[*n], placed[*n]);
            let there = if strategy == Strategy::Auto { host.count } else { 0 };
            new < host.capacity && (limit == 0 || there + new < limit)
        };
        let rank = |n: &usize| {
            let (host, new) = (&hosts[*n], placed[*n]);
            match strategy {
                Strategy::Auto => (host.count + new, Reverse(host.capacity - new), *n),
                Strategy::Global => (host.usage.0 + (new + 1) * host.rate.0, Reverse(0), *n),
                _ => (host.capacity, Reverse(host.usage.0), *n),
            }
        };
        let next = (0..hosts.len()).filter(has_room).min_by_key(rank)?;
        placed[next] += 1;
    }
    Some(placed)
}

fn hosts() -> impl proptest::strategy::Strategy<Value = Vec<Candidate>> {
    let one = (0u64..9, 0u64..7, 0u64..40, 0u64..6).prop_map(|(capacity, count, usage, rate)| Candidate {
        capacity,
        count,
        usage: Utilisation(usage),
        rate: Utilisation(rate),
    });
    proptest::collection::vec(one, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn all_at_once_is_as_one_by_one(hosts in hosts(), need in 1u64..50, limit in 0u64..9) {
        for strategy in [Strategy::Auto, Strategy::Global, Strategy::Drained] {
            let planned = plan(strategy, &hosts, need, limit);
            match one_by_one(strategy, &hosts, need, limit) {
                Some(placed) => prop_assert_eq!(planned, Ok(placed), "{}", strategy),
                None => {
                    let refused = matches!(planned, Err(DoesNotFit::Room { fit, .. }) if fit < need);
                    prop_assert!(refused, "{}", strategy);
                }
            }
        }
    }

    #[test]
    fn on_each_there_are_as_many_and_no_host_gets_more_than_it_takes(
        hosts in hosts(),
        each in 1u64..9,
        limit in 0u64..9,
    ) {
        for (strategy, there) in [(Strategy::Each, false), (Strategy::Fill, true)] {
            let enough = |host: &Candidate| {
                if there { host.count + host.capacity >= each } else { host.capacity >= each }
            };
            let able = hosts.iter().filter(|host| enough(host)).count() as u64;
            let wanted = if limit == 0 { hosts.len() as u64 } else { limit };
            match plan(strategy, &hosts, each, limit) {
                Ok(placed) => {
                    let done = hosts.iter().zip(&placed).filter(|(host, placed)| {
                        let new = if there { each.saturating_sub(host.count) } else { each };
                        **placed == new && enough(host)
                    });
                    prop_assert!(done.count() as u64 >= wanted);
                    prop_assert!(hosts.iter().zip(&placed).all(|(host, placed)| *placed <= host.capacity));
                    prop_assert!(placed.iter().filter(|placed| **placed > 0).count() as u64 <= wanted);
                    prop_assert!(placed.iter().any(|placed| *placed > 0));
                }
                Err(DoesNotFit::Hosts { able: said, .. }) => {
                    prop_assert!(said == able && (able < wanted || wanted == 0));
                }
                Err(DoesNotFit::Filled { .. }) => {
                    let full = hosts.iter().filter(|host| host.count >= each).count() as u64;
                    prop_assert!(there && full >= wanted);
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

#[test]
fn huge_amounts_overflow_nothing() {
    let all = u64::MAX;
    let huge = Candidate { capacity: all, count: all, usage: Utilisation(all), rate: Utilisation(all) };
    for strategy in [Strategy::Auto, Strategy::Global, Strategy::Drained] {
        let hosts = [Candidate { count: 0, ..huge }, huge, host(1, 0)];
        let placed = plan(strategy, &hosts, all, 0);
        assert!(placed.is_ok_and(|placed| placed.iter().sum::<u64>() == all), "{strategy}");
    }
    assert_eq!(plan(Strategy::Auto, &[huge], 1, 0), Err(DoesNotFit::Room { need: 1, fit: 0 }));
    assert_eq!(plan(Strategy::Auto, &[huge], 1, all), Err(DoesNotFit::Room { need: 1, fit: 0 }));
    assert!(matches!(plan(Strategy::Fill, &[huge], all, 0), Err(DoesNotFit::Filled { hosts: 1, .. })));
    assert_eq!(plan(Strategy::Each, &[huge], all, 1), Ok(vec![all]));
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    for strategy in NAMES.map(|(_, strategy)| strategy) {
        assert_eq!(plan(strategy, &[host(1, 0)], 0, 0), Err(DoesNotFit::Nothing));
        assert!(plan(strategy, &[], 1, 0).is_err(), "{strategy}");
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
        assert_eq!(strategy.to_string().to_lowercase().parse(), Ok(strategy));
    }
    let unknown = "SPREAD".parse::<Strategy>().unwrap_err();
    assert!(unknown.to_string().contains("AUTO, FILL"), "{unknown}");
}

#[test]
fn a_share_is_exact_to_the_last_unit() {
    assert_eq!(Utilisation::of(1, 3).0, 333_333_333_333_333);
    assert_eq!(Utilisation::of(5, 2).0, 2_500_000_000_000_000);
    assert_eq!((Utilisation::of(0, 0), Utilisation::of(1, 0)), (Utilisation(0), Utilisation(u64::MAX)));
    assert_eq!(Utilisation::of(u64::MAX, 1), Utilisation(u64::MAX));
}
