use proptest::prelude::*;

use super::*;
use crate::build_file::BuildFile;

/// A plan of jobs 0, 1, … with these needs.
fn plan(needs: &[Vec<u32>]) -> Plan {
    let file: String = (0..needs.len()).map(|i| format!("[jobs.j{i}]\nsteps = [\"x\"]\n")).collect();
    let mut plan = Plan::of(&BuildFile::parse(file.as_bytes(), "f").unwrap());
    for (job, needs) in plan.jobs.iter_mut().zip(needs) {
        job.needs = needs.iter().copied().map(JobId).collect();
    }
    plan
}

#[test]
fn a_failure_skips_what_needs_it_and_nothing_else() {
    let mut graph = Graph::new(&plan(&[vec![], vec![0], vec![1], vec![], vec![3]])).unwrap();
    assert_eq!(graph.ready(), [JobId(0), JobId(3)]);
    graph.started(JobId(0)).unwrap();
    graph.started(JobId(3)).unwrap();
    assert_eq!(graph.finished(JobId(0), JobOutcome::Failed).unwrap(), [JobId(1), JobId(2)]);
    assert_eq!(graph.finished(JobId(3), JobOutcome::Passed).unwrap(), []);
    assert_eq!(graph.ready(), [JobId(4)]);
    assert!(graph.done().is_none());
    graph.started(JobId(4)).unwrap();
    graph.finished(JobId(4), JobOutcome::Passed).unwrap();
    let summary = graph.done().unwrap();
    assert_eq!(summary.passed, [JobId(3), JobId(4)]);
    assert_eq!(summary.failed, [JobId(0)]);
    assert_eq!(summary.skipped, [(JobId(1), JobId(0)), (JobId(2), JobId(0))]);
    assert!(!summary.all_passed());
}

#[test]
fn a_lost_job_is_run_again_a_few_times() {
    let mut graph = Graph::new(&plan(&[vec![], vec![0]])).unwrap();
    for attempt in 1..=MAX_LOSSES {
        assert_eq!(graph.started(JobId(0)).unwrap(), attempt);
        assert_eq!(graph.lost(JobId(0)).unwrap(), AfterLoss::Again);
        assert_eq!(graph.ready(), [JobId(0)]);
    }
    graph.started(JobId(0)).unwrap();
    assert_eq!(graph.lost(JobId(0)).unwrap(), AfterLoss::GivenUp(vec![JobId(1)]));
    assert_eq!(graph.done().unwrap().lost, [JobId(0)]);
}

#[test]
fn a_cancelled_build_starts_nothing_more() {
    let mut graph = Graph::new(&plan(&[vec![], vec![0], vec![]])).unwrap();
    graph.started(JobId(0)).unwrap();
    assert_eq!(graph.cancel(), [JobId(0)]);
    assert_eq!(graph.ready(), []);
    graph.finished(JobId(0), JobOutcome::Passed).unwrap();
    assert_eq!(graph.ready(), []);
    let summary = graph.done().unwrap();
    assert_eq!(summary.passed, [JobId(0)]);
    assert_eq!(summary.cancelled, [JobId(1), JobId(2)]);
}

#[test]
fn plans_that_no_build_file_gives_are_refused() {
    assert_eq!(Graph::new(&plan(&[vec![7]])).unwrap_err(), GraphError::UnknownNeed(JobId(0), JobId(7)));
    assert_eq!(Graph::new(&plan(&[vec![], vec![2], vec![1]])).unwrap_err(), GraphError::Cycle(JobId(1)));
    assert_eq!(Graph::new(&plan(&[vec![0]])).unwrap_err(), GraphError::Cycle(JobId(0)));
    let mut moved = plan(&[vec![], vec![]]);
    moved.jobs.swap(0, 1);
    assert_eq!(Graph::new(&moved).unwrap_err(), GraphError::BadId(JobId(1)));
}

#[test]
fn events_out_of_order_change_nothing() {
    let mut graph = Graph::new(&plan(&[vec![], vec![0]])).unwrap();
    assert!(graph.started(JobId(1)).is_err(), "its need has not passed");
    assert!(graph.finished(JobId(0), JobOutcome::Passed).is_err());
    assert!(graph.lost(JobId(0)).is_err());
    assert_eq!(graph.started(JobId(9)).unwrap_err(), GraphError::UnknownJob(JobId(9)));
    graph.started(JobId(0)).unwrap();
    assert!(graph.started(JobId(0)).is_err());
    graph.finished(JobId(0), JobOutcome::Passed).unwrap();
    assert!(graph.finished(JobId(0), JobOutcome::Failed).is_err());
    assert_eq!(graph.ready(), [JobId(1)]);
}

#[test]
fn an_empty_plan_is_done() {
    let graph = Graph::new(&Plan { jobs: vec![] }).unwrap();
    assert!(graph.done().unwrap().all_passed());
}

/// Needs only point to earlier jobs, so the graph has no cycle; then the places are mixed.
fn any_needs() -> impl Strategy<Value = Vec<Vec<u32>>> {
    (1_usize..24).prop_flat_map(|n| {
        let rows: Vec<_> = (0..n).map(|i| proptest::collection::vec(0..u32::MAX, 0..=i.min(4))).collect();
        (rows, Just((0..n as u32).collect::<Vec<_>>()).prop_shuffle()).prop_map(|(rows, places)| {
            let mut needs = vec![vec![]; rows.len()];
            for (i, row) in rows.iter().enumerate() {
                needs[places[i] as usize] = row.iter().map(|r| places[*r as usize % i.max(1)]).collect();
            }
            needs
        })
    })
}

proptest! {
    #[test]
    fn every_job_ends_once_and_never_starts_before_its_needs(
        needs in any_needs(),
        choices in proptest::collection::vec((any::<u32>(), 0_u8..20), 400),
        cancel_at in proptest::option::of(0_usize..60),
    ) {
        let plan = plan(&needs);
        let mut graph = Graph::new(&plan).unwrap();
        let mut passed = BTreeSet::new();
        let mut ended = BTreeSet::new();
        let mut running: Vec<JobId> = vec![];
        let mut steps = 0;
        for (turn, (pick, what)) in choices.iter().cycle().enumerate() {
            if graph.done().is_some() {
                break;
            }
            steps += 1;
            prop_assert!(steps < 24 * 20, "no end is reached");
            if cancel_at == Some(turn) {
                prop_assert_eq!(graph.cancel(), { running.sort_unstable(); running.clone() });
            }
            let ready = graph.ready();
            prop_assert!(!ready.is_empty() || !running.is_empty() || graph.done().is_some(), "deadlock");
            if !ready.is_empty() && (what % 2 == 0 || running.is_empty()) {
                let job = ready[*pick as usize % ready.len()];
                prop_assert!(plan.jobs[job.index()].needs.iter().all(|n| passed.contains(n)));
                graph.started(job).unwrap();
                running.push(job);
            } else if !running.is_empty() {
                let job = running.swap_remove(*pick as usize % running.len());
                match what {
                    0..=3 => match graph.lost(job).unwrap() {
                        AfterLoss::Again => {}
                        AfterLoss::GivenUp(skipped) => {
                            for job in skipped.into_iter().chain([job]) {
                                prop_assert!(ended.insert(job), "ended twice");
                            }
                        }
                    },
                    _ => {
                        let outcome = if *what == 4 { JobOutcome::Failed } else { JobOutcome::Passed };
                        for job in graph.finished(job, outcome).unwrap().into_iter().chain([job]) {
                            prop_assert!(ended.insert(job), "ended twice");
                        }
                        if outcome == JobOutcome::Passed {
                            passed.insert(job);
                        }
                    }
                }
            }
        }
        let summary = graph.done().unwrap();
        let mut all: Vec<_> = [&summary.passed, &summary.failed, &summary.lost, &summary.cancelled]
            .into_iter()
            .flatten()
            .copied()
            .chain(summary.skipped.iter().map(|(job, _)| *job))
            .collect();
        all.sort_unstable();
        prop_assert_eq!(all, plan.jobs.iter().map(|j| j.id).collect::<Vec<_>>());
        prop_assert_eq!(summary.passed, passed.into_iter().collect::<Vec<_>>());
    }
}
