//! One line of the table: what was measured, against what, and what it should be.

use std::time::Duration;

use serde::Serialize;

/// What a figure is in, and with that which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Milliseconds,
    PerSecond,
    Mebibytes,
    Percent,
}

impl Unit {
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Percent)
    }
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) figure: &'static str,
    pub(crate) unit: Unit,
    pub(crate) samples: usize,
    pub(crate) median: f64,
    /// The value that 99 of 100 samples keep: of few samples the worst.
    pub(crate) p99: f64,
    pub(crate) against: Option<Against>,
    pub(crate) goal: Option<f64>,
}

/// What it is compared with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Against {
    pub(crate) who: &'static str,
    pub(crate) median: f64,
    /// False for what others published of their own machine.
    pub(crate) same_run: bool,
}

impl Against {
    /// A floor that was measured in this run.
    pub(crate) fn measured(who: &'static str, unit: Unit, samples: Vec<f64>) -> Self {
        Self { who, median: spread(unit, samples).0, same_run: true }
    }

    /// A peer that was measured earlier, on a machine of two cores.
    pub(crate) fn recorded(who: &'static str, median: f64) -> Self {
        Self { who, median, same_run: false }
    }
}

impl Row {
    pub(crate) fn new(figure: &'static str, unit: Unit, samples: Vec<f64>) -> Self {
        let count = samples.len();
        let (median, p99) = spread(unit, samples);
        Self { figure, unit, samples: count, median, p99, against: None, goal: None }
    }

    pub(crate) fn against(mut self, against: Against) -> Self {
        self.against = Some(against);
        self
    }

    pub(crate) fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Ours divided by theirs.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.against.as_ref().map(|a| self.median / a.median)
    }

    pub(crate) fn misses_its_goal(&self) -> bool {
        self.goal.is_some_and(|goal| match self.unit.more_is_better() {
            true => self.median < goal,
            false => self.median > goal,
        })
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median and the value that 99 of 100 samples keep. NaN without samples.
fn spread(unit: Unit, mut samples: Vec<f64>) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    if unit.more_is_better() {
        samples.reverse();
    }
    let at = |part: f64| {
        let last = samples.len().saturating_sub(1);
        samples.get((last as f64 * part).ceil() as usize).copied().unwrap_or(f64::NAN)
    };
    (at(0.5), at(0.99))
}
