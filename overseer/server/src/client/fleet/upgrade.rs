//! `overseer fleet upgrade`.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{CauseDocument, TroubleDocument, cause, print, trouble, why};
use crate::api::proto::{self, fleets_client::FleetsClient};
use crate::api::status::understand;
use crate::client::{Channel, millis, time};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::serve::reload::labors;

pub(super) const EXAMPLES: &str = "\
Examples:
  overseer fleet upgrade web
  overseer fleet upgrade web --canary 5 --batch 2 --watch 1m
  overseer fleet upgrade web --follow

First replace the file that `release` of the fleet names, by `mv` and not in place, or name
another one in the configuration. On each labor the new version starts beside the old
one and takes the calls that come from then on; the old one finishes what it has. Some
labors change first. If those, and in the end all, do well for a while, that was it; if
the new version does not start, crashes or fails too many calls, all go back by themselves.

Exit codes: 0 the fleet runs the new version; 1 it runs the old one again; 2 bad arguments,
nothing to change; 3 a fault, or the fleet was stopped meanwhile; 130 interrupted: the
upgrade goes on, --follow shows it.";

/// Changes the release of a fleet that runs, without losing a call
#[derive(Debug, Args)]
pub(in crate::client) struct UpgradeArgs {
    /// Name of the fleet
    #[arg(value_name = "FLEET")]
    name: String,
    /// Percent of the labors that change first and are watched; 0: none is first [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    canary: Option<u32>,
    /// Most labors that change at a time [default: a twentieth of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// How long a labor that has changed keeps its place among those [default: 200ms]
    #[arg(long, value_name = "TIME", value_parser = time)]
    settle: Option<Duration>,
    /// How long the first labors, and in the end all, have to do well [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    watch: Option<Duration>,
    /// By how many percent points a larger share of calls may fail than before [default: 5]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    error_budget: Option<u32>,
    /// Return as soon as it has begun
    #[arg(long, conflicts_with = "follow")]
    detach: bool,
    /// Begin none: follow the one that is on its way
    #[arg(long, conflicts_with_all = ["canary", "batch", "settle", "watch", "error_budget"])]
    follow: bool,
}

/// An upgrade, as JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct UpgradeDocument {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) stage: String,
    pub(super) changed: u32,
    pub(super) labors: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<CauseDocument>,
    /// What may not be meant, of the command that has begun it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
}

impl From<proto::Upgrade> for UpgradeDocument {
    fn from(upgrade: proto::Upgrade) -> Self {
        Self {
            from: upgrade.from,
            to: upgrade.to,
            stage: upgrade.stage,
            changed: upgrade.changed,
            labors: upgrade.labors,
            cause: upgrade.cause.map(cause),
            warnings: Vec::new(),
        }
    }
}

impl UpgradeDocument {
    /// What goes on, for people.
    pub(super) fn doing(&self) -> &'static str {
        match self.stage.as_str() {
            "canary" => "the first labors change and are watched",
            "rolling" => "the others change",
            "watching" => "all have changed and are watched",
            "going_back" => "all go back",
            "done" => "done",
            _ => "rolled back",
        }
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage.as_str(), "done" | "rolled_back")
    }

    /// How far it is, for a note.
    pub(super) fn progress(&self) -> String {
        format!("{}/{} labors changed", self.changed, self.labors)
    }

    /// For people, on a line.
    pub(super) fn text(&self, fleet: &str) -> String {
        let on = labors(self.labors as usize);
        match (self.stage.as_str(), &self.cause) {
            ("done", _) => format!("{fleet} runs {} on {on}\n", short(&self.to)),
            ("rolled_back", cause) => {
                let why = why(cause.as_ref());
                let (from, to) = (short(&self.from), short(&self.to));
                format!("{fleet} runs {from} again on {on}; {to} was taken back: {why}\n")
            }
            _ => format!("{fleet} changes from {} to {}\n", short(&self.from), short(&self.to)),
        }
    }
}

/// A release that was taken back, as JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TakenBackDocument {
    pub(super) release: String,
    pub(super) before: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<CauseDocument>,
}

impl From<proto::TakenBack> for TakenBackDocument {
    fn from(taken_back: proto::TakenBack) -> Self {
        let proto::TakenBack { release, before, cause: why } = taken_back;
        Self { release, before, cause: why.map(cause) }
    }
}

impl TakenBackDocument {
    /// For people, on a line.
    pub(super) fn text(&self) -> String {
        let release = short(&self.release);
        match &self.cause {
            Some(cause) => format!("the release {release} was taken back: {}\n", why(Some(cause))),
            None => format!("nobody has seen the release {release} do well on all labors\n"),
        }
    }
}

/// The beginning of a release's id, for people.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Begins an upgrade, or finds one, and shows it until it is over.
pub(super) async fn run(
    args: UpgradeArgs,
    mut client: FleetsClient<Channel>,
    json: bool,
) -> Result<Exit, Failure> {
    let failed = |status: tonic::Status| understand(&status);
    let mut warnings = Vec::new();
    if !args.follow {
        let request = proto::UpgradeFleetRequest {
            fleet: args.name.clone(),
            canary: args.canary,
            batch: args.batch,
            settle_ms: args.settle.map(millis),
            watch_ms: args.watch.map(millis),
            error_budget: args.error_budget,
        };
        let begun = client.upgrade(request).await.map_err(failed)?.into_inner();
        warnings = begun.warnings;
        warnings.iter().for_each(|warning| Target::Stderr.write(&format!("warning: {warning}\n")));
        if args.detach {
            let begun = UpgradeDocument { warnings, ..begun.upgrade.unwrap_or_default().into() };
            print(json, &begun, || begun.text(&args.name));
            return Ok(Exit::Passed);
        }
    }
    let request = proto::FollowUpgradeRequest { fleet: args.name.clone() };
    let mut statuses = client.follow_upgrade(request).await.map_err(failed)?.into_inner();
    let mut shown = Shown::new(json);
    let mut last = UpgradeDocument::from(proto::Upgrade::default());
    while let Some(next) = statuses.message().await.map_err(failed)? {
        last = next.upgrade.unwrap_or_default().into();
        shown.show(&last);
    }
    shown.end();
    // A disk that is full keeps its end from being remembered.
    let listed = client.list(proto::ListFleetsRequest {}).await.map_err(failed)?.into_inner();
    let troubles: Vec<_> = listed.troubles.into_iter().map(TroubleDocument::from).collect();
    trouble::warn(&troubles);
    last.warnings = warnings;
    print(json, &last, || last.text(&args.name));
    Ok(if last.stage == "done" { Exit::Passed } else { Exit::Failed })
}

/// How far it is: a bar on a terminal, else a line for each stage.
struct Shown {
    bar: Option<ProgressBar>,
    json: bool,
    stage: String,
}

impl Shown {
    fn new(json: bool) -> Self {
        let bar = output::progress().map(|progress| {
            let bar = progress.add(ProgressBar::new(0));
            let line = "{bar:24} {pos}/{len} labors, {msg} ({elapsed})";
            let style = ProgressStyle::with_template(line);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar: bar.filter(|_| !json), json, stage: String::new() }
    }

    fn show(&mut self, now: &UpgradeDocument) {
        if let Some(bar) = &self.bar {
            bar.set_length(now.labors.into());
            bar.set_position(now.changed.into());
            bar.set_message(now.doing());
        } else if !self.json && now.stage != self.stage {
            let UpgradeDocument { changed, labors, .. } = now;
            Target::Stderr.write(&format!("{changed}/{labors} labors: {}\n", now.doing()));
        }
        self.stage.clone_from(&now.stage);
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
