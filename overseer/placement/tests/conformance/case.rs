//! One case of a strategy: what is given, and what must come of it.

use std::collections::BTreeMap;
use std::path::Path;

use overseer_placement::{Candidate, DoesNotFit, Strategy, Utilisation, plan};
use serde::Deserialize;

/// Whether any engine must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Universal,
    Specific,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Universal => "universal",
            Self::Specific => "implementation-specific",
        }
    }
}

pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    given: Given,
}

#[derive(Deserialize)]
struct File {
    cases: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    id: String,
    portability: String,
    strategy: String,
    input: Input,
    expect: Expect,
}

#[derive(Deserialize)]
struct Input {
    nodes: Vec<Node>,
    need: u64,
    #[serde(default)]
    total: Option<u64>,
    limit: u64,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    capacity: u64,
    count: u64,
    #[serde(default)]
    usage: f64,
    #[serde(default)]
    rate: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Expect {
    error: Option<String>,
    final_counts_sorted: Option<Vec<u64>>,
    deploy: Option<BTreeMap<String, u64>>,
    deploy_subset: Option<BTreeMap<String, u64>>,
    deploy_nonzero: Option<BTreeMap<String, u64>>,
}

/// All cases of strategies that lie there.
pub(crate) fn read(directory: &Path) -> Result<Vec<Case>, String> {
    let named = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("strategy_") && name.ends_with(".json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(named)?;
        let file: File =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        cases.extend(file.cases.into_iter().map(|given| Case {
            id: given.id.clone(),
            kind: if given.portability == "universal" { Kind::Universal } else { Kind::Specific },
            given,
        }));
    }
    Ok(cases)
}

impl Case {
    /// # Errors
    /// What does not hold.
    pub(crate) fn holds(&self) -> Result<(), String> {
        let Given { strategy, input, expect, .. } = &self.given;
        let strategy: Strategy = strategy.parse().map_err(|error| format!("{error}"))?;
        let hosts: Vec<Candidate> = input.nodes.iter().map(Node::candidate).collect();
        let placed = match input.too_little_for(strategy) {
            Some(fit) => Err(DoesNotFit::Room { need: input.need, fit }),
            None => plan(strategy, &hosts, input.need, input.limit),
        };
        match (placed, &expect.error) {
            (Err(error), Some(class)) if is(&error, class) => Ok(()),
            (Err(error), Some(class)) => Err(format!("{class} is expected, and it says: {error}")),
            (Ok(placed), Some(class)) => Err(format!("{class} is expected, and it places {placed:?}")),
            (Err(error), None) => Err(error.to_string()),
            (Ok(placed), None) => self.is_as_expected(&placed),
        }
    }

    fn is_as_expected(&self, placed: &[u64]) -> Result<(), String> {
        let Given { input, expect, .. } = &self.given;
        let by_name: BTreeMap<String, u64> = input
            .nodes
            .iter()
            .zip(placed)
            .filter(|(_, placed)| **placed > 0)
            .map(|(node, placed)| (node.name.clone(), *placed))
            .collect();
        let mut counts: Vec<u64> =
            input.nodes.iter().zip(placed).map(|(node, new)| node.count + new).collect();
        counts.sort_unstable();
        let same = |what: &str, good: bool| match good {
            true => Ok(()),
            false => Err(format!("{what} is not so: {by_name:?}, counts {counts:?}")),
        };
        let is_all = |wanted: &BTreeMap<String, u64>| {
            let wanted: BTreeMap<_, _> = wanted.iter().filter(|(_, n)| **n > 0).collect();
            wanted == by_name.iter().collect()
        };
        let is_part =
            |wanted: &BTreeMap<String, u64>| wanted.iter().all(|(name, n)| by_name.get(name) == Some(n));
        same("final_counts_sorted", expect.final_counts_sorted.as_ref().is_none_or(|want| *want == counts))?;
        same("deploy", expect.deploy.as_ref().is_none_or(is_all))?;
        same("deploy_nonzero", expect.deploy_nonzero.as_ref().is_none_or(is_all))?;
        same("deploy_subset", expect.deploy_subset.as_ref().is_none_or(is_part))
    }
}

impl Input {
    /// What is said of the whole, where that is less than is needed in all. More than there is changes
    /// nothing: the hosts are what there is.
    fn too_little_for(&self, strategy: Strategy) -> Option<u64> {
        let in_all = matches!(strategy, Strategy::Auto | Strategy::Global | Strategy::Drained);
        self.total.filter(|total| in_all && *total < self.need)
    }
}

impl Node {
    fn candidate(&self) -> Candidate {
        let share = |of: f64| Utilisation((of * Utilisation::WHOLE.0 as f64).round() as u64);
        Candidate {
            capacity: self.capacity,
            count: self.count,
            usage: share(self.usage),
            rate: share(self.rate),
        }
    }
}

/// Whether an error is of that class.
fn is(error: &DoesNotFit, class: &str) -> bool {
    match class {
        "insufficient_resource" | "insufficient_capacity" => {
            matches!(error, DoesNotFit::Room { .. } | DoesNotFit::Hosts { .. })
        }
        "already_filled" => matches!(error, DoesNotFit::Filled { .. }),
        "invalid_count" => matches!(error, DoesNotFit::Nothing),
        _ => false,
    }
}
