//! Versions of the probe, and callers that account for each of their calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use overseer::release::ReleaseBuilder;
use overseer::{CallError, CallErrorCode, CallOptions, Fleet, Overseer, Release, UpgradeOptions};
use overseer_tests::probe_library;
use tokio::task::JoinHandle;

/// A version of the probe, with these variables.
pub(crate) fn version(version: &str, variables: &[(&str, &str)]) -> Release {
    Release::pack(described(version, variables)).expect("it is packed")
}

/// The same before it is packed.
pub(crate) fn described(version: &str, variables: &[(&str, &str)]) -> ReleaseBuilder {
    let named = [("PROBE_VERSION", version)];
    let all = named.iter().chain(variables);
    let builder = ReleaseBuilder::plugin("probe-plugin", &format!("{version}.0.0"), probe_library());
    all.fold(builder, |builder, (name, value)| builder.environment(*name, *value))
}

/// An upgrade that takes no longer than it must.
pub(crate) fn quick() -> UpgradeOptions {
    UpgradeOptions { watch: Duration::ZERO, ..UpgradeOptions::default() }
}

/// How calls came out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    /// Answered by a version: how many calls, by version.
    pub(crate) answered: std::collections::BTreeMap<String, u64>,
    /// Their labor or their plugin host was gone.
    pub(crate) lost: u64,
    /// Anything else, in words.
    pub(crate) failed: Vec<String>,
}

/// Calls a fleet until it is told to stop.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Outcomes>>,
}

impl Load {
    /// With so many calls at a time.
    pub(crate) fn on<H: Overseer>(fleet: &Fleet<H>, callers: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let caller = |_| {
            let (fleet, over) = (fleet.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut outcomes = Outcomes::default();
                while !over.load(Ordering::Relaxed) {
                    let answer = fleet.call_bytes("version", "", CallOptions::default()).await;
                    outcomes.count(answer.map(|json| String::from_utf8_lossy(&json).into_owned()));
                }
                outcomes
            })
        };
        let callers = (0..callers).map(caller).collect();
        Self { over, callers }
    }

    /// Ends it, and says how the calls came out.
    pub(crate) async fn end(self) -> Outcomes {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Outcomes::default();
        for caller in self.callers {
            let outcomes = overseer_tests::within("a caller ends", caller).await.expect("it does not fail");
            for (version, calls) in outcomes.answered {
                *all.answered.entry(version).or_default() += calls;
            }
            all.lost += outcomes.lost;
            all.failed.extend(outcomes.failed);
        }
        all
    }
}

impl Outcomes {
    pub(crate) fn count(&mut self, answer: Result<String, CallError>) {
        match answer {
            Ok(version) => *self.answered.entry(version.trim_matches('"').to_owned()).or_default() += 1,
            Err(CallError::LaborLost { .. }) => self.lost += 1,
            Err(CallError::Answered { code: CallErrorCode::HostEnded, .. }) => self.lost += 1,
            Err(error) => self.failed.push(error.to_string()),
        }
    }

    /// Calls that a version has answered.
    pub(crate) fn by(&self, version: &str) -> u64 {
        self.answered.get(version).copied().unwrap_or(0)
    }
}
