//! How a fleet changes its release: first some labors, which are watched, then the others a few at a
//! time, then all are watched. What does not do well takes all of them back.

use std::collections::BTreeMap;
use std::time::Duration;

use overseer_protocol::{Cause, LaborId, ReleaseId};
use serde::Serialize;

use super::Millis;

/// How an upgrade goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeOptions {
    /// Percent of the labors that change first and are watched before the others do: one at least;
    /// with 0 none is first.
    pub canary: u8,
    /// Most labors that change at a time; without it a twentieth of them, and one at least.
    pub batch: Option<u32>,
    /// How long a labor that has changed keeps its place among those: the next one follows then. On one
    /// host it leaves the processors to the calls meanwhile.
    pub settle: Duration,
    /// How long the first labors, and in the end all of them, have to do well.
    pub watch: Duration,
    /// By how many percent points a larger share of calls may fail than with the release before.
    pub error_budget: u8,
}

impl Default for UpgradeOptions {
    fn default() -> Self {
        Self {
            canary: 10,
            batch: None,
            settle: Duration::from_millis(200),
            watch: Duration::from_secs(10),
            error_budget: 5,
        }
    }
}

/// Answers to calls and tasks, and those that say that the release has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All.
    pub answers: u64,
    /// Of those, failed by the release.
    pub failed: u64,
}

/// Fewer failures than this say nothing of a release.
const MIN_FAILED: u64 = 3;

impl Tally {
    /// Whether so many fail that the budget is spent.
    fn exceeds(self, before: Self, budget: u8) -> bool {
        if self.failed < MIN_FAILED || self.answers == 0 {
            return false;
        }
        // In percent of percent, so that all is whole numbers.
        let share = |tally: Self| tally.failed.saturating_mul(10_000) / tally.answers.max(1);
        share(self) > share(before) + u64::from(budget) * 100
    }
}

/// How far an upgrade is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", content = "cause", rename_all = "snake_case")]
pub enum UpgradeStage {
    /// The first labors change, and are watched.
    Canary,
    /// The others change.
    Rolling,
    /// All have changed, and are watched.
    Watching,
    /// All go back, for this.
    GoingBack(Cause),
    /// All have changed and do well.
    Done,
    /// All are back, for this.
    RolledBack(Cause),
}

impl UpgradeStage {
    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::RolledBack(_))
    }

    /// `canary`, `rolling`, `watching`, `going_back`, `done` or `rolled_back`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Rolling => "rolling",
            Self::Watching => "watching",
            Self::GoingBack(_) => "going_back",
            Self::Done => "done",
            Self::RolledBack(_) => "rolled_back",
        }
    }
}

/// An upgrade as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpgradeStatus {
    /// What the fleet ran before; none: its labors were empty.
    pub from: Option<ReleaseId>,
    /// What it is to run; none: its labors are to be empty.
    pub to: Option<ReleaseId>,
    /// How far it is.
    #[serde(flatten)]
    pub stage: UpgradeStage,
    /// Labors that run the new release.
    pub changed: usize,
    /// Labors that there are.
    pub labors: usize,
}

/// One upgrade on its way.
#[derive(Debug, Clone)]
pub(super) struct Rollout {
    pub(super) from: Option<ReleaseId>,
    pub(super) to: Option<ReleaseId>,
    pub(super) options: UpgradeOptions,
    pub(super) stage: UpgradeStage,
    /// Labors that were told to change, and when they must have done that.
    pub(super) changing: BTreeMap<LaborId, Millis>,
    /// Those that have changed and keep their place until then.
    pub(super) settling: BTreeMap<LaborId, Millis>,
    /// Until when those that have changed are watched.
    pub(super) watched_until: Option<Millis>,
}

impl Rollout {
    pub(super) fn new(from: Option<ReleaseId>, to: Option<ReleaseId>, options: UpgradeOptions) -> Self {
        let stage = if options.canary == 0 { UpgradeStage::Rolling } else { UpgradeStage::Canary };
        let (changing, settling) = Default::default();
        Self { from, to, options, stage, changing, settling, watched_until: None }
    }

    /// What a labor is to run that begins now.
    pub(super) fn for_new(&self) -> Option<ReleaseId> {
        match self.stage {
            UpgradeStage::Rolling | UpgradeStage::Watching => self.to,
            _ => self.from,
        }
    }

    pub(super) fn goes_back(&self) -> bool {
        matches!(self.stage, UpgradeStage::GoingBack(_))
    }

    /// Whether a labor that runs this may go on with it until it is told to change.
    pub(super) fn knows(&self, release: Option<ReleaseId>) -> bool {
        release == self.from || release == self.to
    }

    /// How many labors of so many are to have changed at this stage.
    pub(super) fn wanted(&self, labors: usize) -> usize {
        match self.stage {
            UpgradeStage::Canary => {
                (labors * usize::from(self.options.canary.min(100))).div_ceil(100).min(labors)
            }
            UpgradeStage::GoingBack(_) => 0,
            _ => labors,
        }
    }

    /// Most labors of so many that change at a time. All go back at once: what they go back to is
    /// on their hosts.
    pub(super) fn at_once(&self, labors: usize) -> usize {
        match self.options.batch {
            _ if self.goes_back() => labors,
            Some(batch) => batch.max(1) as usize,
            None => labors.div_ceil(20),
        }
    }

    /// Why so many failed answers are too many, if they are; the new release said this last.
    pub(super) fn over_budget(&self, new: Tally, before: Tally, error: Option<&str>) -> Option<Cause> {
        let budget = self.options.error_budget;
        new.exceeds(before, budget).then(|| {
            let last = error.map(|error| format!(", the last one by this: {error}")).unwrap_or_default();
            Cause::Policy {
                rule: format!(
                    "{} of {} calls failed with the new release{last}; {} of {} with the one before, and allowed are {budget} percent points more",
                    new.failed, new.answers, before.failed, before.answers
                ),
            }
        })
    }

    /// A labor has changed as it was told.
    pub(super) fn changed(&mut self, now: Millis, labor: LaborId) {
        let settle = self.options.settle.as_millis() as u64;
        if self.changing.remove(&labor).is_some() && !self.goes_back() && settle > 0 {
            self.settling.insert(labor, now + settle);
        }
    }

    /// How many places are taken now.
    pub(super) fn taken(&mut self, now: Millis) -> usize {
        self.settling.retain(|_, until| *until > now);
        self.changing.len() + self.settling.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.changing.values().chain(self.settling.values()).copied().chain(self.watched_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_from_what_failed_before() {
        let tally = |failed, answers| Tally { answers, failed };
        assert!(!tally(2, 2).exceeds(Tally::default(), 0), "two failures say nothing");
        assert!(tally(3, 3).exceeds(Tally::default(), 5));
        assert!(!tally(5, 100).exceeds(tally(0, 100), 5));
        assert!(tally(6, 100).exceeds(tally(0, 100), 5));
        assert!(!tally(6, 100).exceeds(tally(1, 100), 5), "one in a hundred failed before, too");
        assert!(tally(101, 1000).exceeds(tally(50, 1000), 5));
        assert!(!tally(u64::MAX, u64::MAX).exceeds(tally(1, 1), 0), "no more than all");
    }

    #[test]
    fn who_spends_the_budget_says_by_what() {
        let rollout = Rollout::new(None, None, UpgradeOptions::default());
        let (bad, good) = (Tally { answers: 4, failed: 3 }, Tally { answers: 9, failed: 0 });
        assert_eq!(rollout.over_budget(good, good, Some("x")), None);
        let said = |error| rollout.over_budget(bad, good, error).unwrap().to_string();
        let with = "3 of 4 calls failed with the new release, the last one by this: failed: no bolts; 0 of 9";
        assert!(said(Some("failed: no bolts")).contains(with), "{}", said(Some("failed: no bolts")));
        assert!(said(None).contains("3 of 4 calls failed with the new release; 0 of 9"), "{}", said(None));
    }

    #[test]
    fn shares_are_rounded_up_and_batches_are_one_at_least() {
        let with = |canary, batch| {
            Rollout::new(None, None, UpgradeOptions { canary, batch, ..UpgradeOptions::default() })
        };
        for (canary, labors, wanted) in
            [(10, 1, 1), (10, 50, 5), (1, 50, 1), (100, 7, 7), (200, 7, 7), (10, 0, 0)]
        {
            assert_eq!(with(canary, None).wanted(labors), wanted, "{canary} of {labors}");
        }
        assert_eq!(with(0, None).wanted(7), 7, "none is first");
        for (batch, labors, at_once) in [(None, 1, 1), (None, 50, 3), (Some(0), 50, 1), (Some(3), 50, 3)] {
            assert_eq!(with(10, batch).at_once(labors), at_once);
        }
    }
}
