//! Some seeds of the simulation; `cargo run -p overseer-tests --bin simulate` runs more.

use std::collections::BTreeSet;

use overseer_tests::simulation::{Faults, Kind, run};

#[test]
fn what_must_hold_holds_in_every_simulated_world() {
    let mut faults = Faults::new();
    let mut covered = BTreeSet::new();
    for seed in 1_000_000..1_000_040 {
        let outcome = run(seed, &BTreeSet::new(), None)
            .unwrap_or_else(|why| panic!("seed {seed} (`simulate --from {seed} --seeds 1`): {why}"));
        for (kind, n) in outcome.faults {
            *faults.entry(kind).or_default() += n;
        }
        covered.extend(outcome.covered.into_keys());
    }
    println!("{} (state, event) pairs covered", covered.len());
    let invited = ["booting", "loading", "loaded", "ready", "lost", "draining", "terminating"];
    for state in invited.map(|state| format!("invited {state}")) {
        assert!(covered.iter().any(|(covered, _)| *covered == state), "never {state}");
    }
    // The others are over too soon for what is rare.
    for state in ["ready", "lost", "invited booting", "invited ready", "invited terminating"] {
        for event in ["Start", "Invite", "Attached", "Detached", "Left", "Going", "Drain", "Terminate"] {
            assert!(covered.contains(&(state.to_owned(), event.to_owned())), "no {event} while {state}");
        }
    }
    for kind in Kind::ALL {
        assert!(faults.get(&kind).is_some_and(|n| *n >= 10), "{kind:?} hardly happened: {faults:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let steps = || run(7, &BTreeSet::new(), None).map(|outcome| (outcome.steps, outcome.done));
    assert_eq!(steps(), steps());
}
