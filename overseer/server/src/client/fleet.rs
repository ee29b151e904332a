//! `overseer fleet`: list, show, start, stop, drain, invite, upgrade, events, reconcile, history.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::trouble::{self, TroubleDocument};
use super::{Channel, Common};
use crate::api::proto::events_response::What;
use crate::api::proto::fleets_client::FleetsClient;
use crate::api::proto::{self, FleetState};
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

mod invite;
mod reconcile;
mod text;
mod upgrade;

use self::invite::{InviteArgs, Invited};
use self::reconcile::Reconciled;
pub(super) use self::text::{age, fleet_table, header, why};
use self::upgrade::{TakenBackDocument, UpgradeArgs, UpgradeDocument};

const EXAMPLES: &str = "\
Examples:
  overseer fleet list
  overseer fleet show web
  overseer fleet start web --labors 8
  overseer fleet invite web
  overseer fleet upgrade web
  overseer fleet events web --follow";

/// Shows, starts, stops and watches fleets of a server that runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    pub(super) command: FleetCommand,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum FleetCommand {
    /// Lists all fleets
    #[command(after_help = "Example:\n  overseer fleet list --json | jq -r '.fleets[].name'")]
    List,
    /// Shows a fleet and its labors
    #[command(after_help = "Example:\n  overseer fleet show web")]
    Show {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
    },
    /// Starts a fleet, or brings one that runs to its number of labors
    #[command(
        after_help = "Examples:\n  overseer fleet start web\n  overseer fleet start web --labors 8\n\n\
        A number given here goes before the configuration's, also after a restart of the server,\n\
        until the fleet is started without one. Where the configuration names a release that\n\
        an upgrade has taken back, the one before is started, unless --anyway is given."
    )]
    Start {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
        /// How many labors; else as many as the configuration says
        #[arg(long, value_name = "N")]
        labors: Option<u32>,
        /// Run the release of the configuration on all labors though it was taken back
        #[arg(long)]
        anyway: bool,
    },
    /// Ends all labors of a fleet; it stays stopped until it is started again
    #[command(after_help = "Example:\n  overseer fleet stop web\n\n\
        Calls that run are lost; `overseer fleet drain` lets them finish.")]
    Stop {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
    },
    /// Lets labors finish their calls, then ends them
    #[command(
        after_help = "Examples:\n  overseer fleet drain web\n  overseer fleet drain web --labor l-01k9…\n\n\
        They are not replaced before the next `overseer fleet start`; one that was drained by\n\
        itself comes back with a reload too."
    )]
    Drain {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
        /// Only this labor
        #[arg(long, value_name = "ID")]
        labor: Option<String>,
    },
    #[command(after_help = invite::EXAMPLES)]
    Invite(InviteArgs),
    #[command(after_help = upgrade::EXAMPLES)]
    Upgrade(UpgradeArgs),
    /// Prints what happens to a fleet and its labors
    #[command(
        after_help = "Examples:\n  overseer fleet events web\n  overseer fleet events web --follow --backlog 0"
    )]
    Events {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
        /// Stay and print what happens from now on
        #[arg(short, long)]
        follow: bool,
        /// Begin with so many of the newest events
        #[arg(long, value_name = "N", default_value_t = 20)]
        backlog: u32,
    },
    /// Holds a fleet against what its adapter has, and puts right what does not fit
    #[command(
        after_help = "Examples:\n  overseer fleet reconcile web --dry-run\n  overseer fleet reconcile web\n\n\
        It happens by itself every minute. What was seen only once is looked at again first."
    )]
    Reconcile {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
        /// Only say what does not fit
        #[arg(long)]
        dry_run: bool,
        /// Also end more at once than the brake lets through
        #[arg(long, conflicts_with = "dry_run")]
        force: bool,
    },
    /// Prints what a fleet and its labors went through
    #[command(
        after_help = "Examples:\n  overseer fleet history web --limit 50\n  overseer fleet history web --labor l-01k9…"
    )]
    History {
        /// Name of the fleet
        #[arg(value_name = "FLEET")]
        name: String,
        /// Only of this labor
        #[arg(long, value_name = "ID")]
        labor: Option<String>,
        /// Only the newest so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
}

/// A fleet, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct FleetDocument {
    name: String,
    state: &'static str,
    adapter: String,
    release: String,
    release_id: String,
    wanted: u32,
    labors: u32,
    ready: u32,
    max_labors: u32,
    by_hand: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    given_up: Option<CauseDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_by: Option<CauseDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade: Option<UpgradeDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_back: Option<TakenBackDocument>,
}

impl From<proto::Fleet> for FleetDocument {
    fn from(fleet: proto::Fleet) -> Self {
        let state = match fleet.state() {
            FleetState::Stopped => "stopped",
            FleetState::Starting => "starting",
            FleetState::Running => "running",
            FleetState::Stopping => "stopping",
            FleetState::Unspecified => "unknown",
        };
        Self {
            name: fleet.name,
            state,
            adapter: fleet.adapter,
            release: fleet.release,
            release_id: fleet.release_id,
            wanted: fleet.wanted,
            labors: fleet.labors,
            ready: fleet.ready,
            max_labors: fleet.max_labors,
            by_hand: fleet.by_hand,
            pending: fleet.pending,
            started_ms: Some(fleet.started_ms).filter(|ms| *ms > 0),
            given_up: fleet.given_up.map(cause),
            stopped_by: fleet.stopped_by.map(cause),
            upgrade: fleet.upgrade.map(UpgradeDocument::from),
            taken_back: fleet.taken_back.map(TakenBackDocument::from),
        }
    }
}

/// Why, as JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CauseDocument {
    code: String,
    text: String,
}

/// A labor, as JSON.
#[derive(Debug, Serialize)]
struct LaborDocument {
    id: String,
    generation: u32,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<CauseDocument>,
    since_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    open: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    invited: bool,
    release_id: Option<String>,
}

/// An event, as JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum EventDocument {
    Labor {
        sequence: u64,
        labor: String,
        generation: u32,
        state: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<CauseDocument>,
        at_ms: u64,
    },
    Upgrade {
        sequence: u64,
        #[serde(flatten)]
        upgrade: UpgradeDocument,
        at_ms: u64,
    },
    Lost {
        events: u64,
    },
}

#[derive(Serialize)]
struct Listed {
    fleets: Vec<FleetDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    troubles: Vec<TroubleDocument>,
}

/// `show`, `start`, `stop` and `drain` with `--json`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    fleet: FleetDocument,
    /// Its labors, of `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    children: Option<Vec<LaborDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<u32>,
    /// What keeps it from being served, of `show`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    troubles: Vec<TroubleDocument>,
}

pub(super) fn cause(cause: proto::Cause) -> CauseDocument {
    CauseDocument { code: cause.code, text: cause.text }
}

fn labor(labor: proto::Labor) -> LaborDocument {
    LaborDocument {
        id: labor.id,
        generation: labor.generation,
        state: labor.state,
        cause: labor.cause.map(cause),
        since_ms: labor.since_ms,
        host: labor.host,
        open: labor.open,
        invited: labor.invited,
        release_id: labor.release_id,
    }
}

fn event(event: proto::Event) -> EventDocument {
    if let Some(upgrade) = event.upgrade {
        let (sequence, at_ms) = (event.sequence, event.at_ms);
        return EventDocument::Upgrade { sequence, upgrade: upgrade.into(), at_ms };
    }
    EventDocument::Labor {
        sequence: event.sequence,
        labor: event.labor,
        generation: event.generation,
        state: event.state,
        cause: event.cause.map(cause),
        at_ms: event.at_ms,
    }
}

fn shown(fleet: Option<proto::Fleet>) -> Shown {
    Shown {
        fleet: fleet.unwrap_or_default().into(),
        children: None,
        started: None,
        draining: None,
        troubles: Vec::new(),
    }
}

/// Runs one of the commands.
pub(super) async fn run(command: FleetCommand, channel: Channel, json: bool) -> Result<Exit, Failure> {
    let mut client = FleetsClient::new(channel);
    let failed = |status: tonic::Status| understand(&status);
    match command {
        FleetCommand::List => {
            let listed = client.list(proto::ListFleetsRequest {}).await.map_err(failed)?.into_inner();
            let fleets = listed.fleets.into_iter().map(FleetDocument::from).collect();
            let troubles = listed.troubles.into_iter().map(TroubleDocument::from).collect();
            let listed = Listed { fleets, troubles };
            trouble::warn(&listed.troubles);
            print(json, &listed, || fleet_table(&listed.fleets, Target::Stdout.width()));
        }
        FleetCommand::Show { name } => {
            let request = proto::GetFleetRequest { fleet: name };
            let got = client.get(request).await.map_err(failed)?.into_inner();
            let labors: Vec<_> = got.labors.into_iter().map(labor).collect();
            let troubles: Vec<_> = got.troubles.into_iter().map(TroubleDocument::from).collect();
            trouble::warn(&troubles);
            let shown = Shown { children: Some(labors), troubles, ..shown(got.fleet) };
            print(json, &shown, || text::show(&shown));
        }
        FleetCommand::Start { name, labors, anyway } => {
            let request = proto::StartFleetRequest { fleet: name, labors, anyway };
            let done = client.start(request).await.map_err(failed)?.into_inner();
            let (started, draining) = (Some(done.started), Some(done.drained));
            let shown = Shown { started, draining, ..shown(done.fleet) };
            print(json, &shown, || text::done(&shown));
        }
        FleetCommand::Stop { name } => {
            let request = proto::StopFleetRequest { fleet: name };
            let done = client.stop(request).await.map_err(failed)?.into_inner();
            let shown = shown(done.fleet);
            print(json, &shown, || text::done(&shown));
        }
        FleetCommand::Drain { name, labor } => {
            let request = proto::DrainFleetRequest { fleet: name, labor };
            let done = client.drain(request).await.map_err(failed)?.into_inner();
            let shown = Shown { draining: Some(done.draining), ..shown(done.fleet) };
            print(json, &shown, || text::done(&shown));
        }
        FleetCommand::Invite(args) => {
            let only_token = args.token;
            let invited = client.invite(args.request()).await.map_err(failed)?.into_inner();
            let invited = Invited::from(invited);
            print(json, &invited, || invited.text(only_token));
        }
        FleetCommand::Upgrade(args) => return upgrade::run(args, client, json).await,
        FleetCommand::History { name, labor, limit } => {
            let request = proto::HistoryRequest { fleet: name, labor, limit };
            let events = client.history(request).await.map_err(failed)?.into_inner().events;
            print_events(json, events.into_iter().map(event).collect());
        }
        FleetCommand::Reconcile { name, dry_run, force } => {
            let request = proto::ReconcileRequest { fleet: name, dry_run, force };
            let pass = client.reconcile(request).await.map_err(failed)?.into_inner();
            let reconciled = Reconciled::from(pass);
            print(json, &reconciled, || reconciled.text(dry_run));
            // Somebody has to look at it.
            return Ok(if reconciled.is_braked() { Exit::Failed } else { Exit::Passed });
        }
        FleetCommand::Events { name, follow: false, backlog } => {
            let request = proto::HistoryRequest { fleet: name, labor: None, limit: Some(backlog) };
            let events = client.history(request).await.map_err(failed)?.into_inner().events;
            print_events(json, events.into_iter().map(event).collect());
        }
        FleetCommand::Events { name, follow: true, backlog } => {
            let request = proto::EventsRequest { fleet: name, backlog, after: None };
            let mut events = client.events(request).await.map_err(failed)?.into_inner();
            while let Some(next) = events.message().await.map_err(failed)? {
                let document = match next.what {
                    Some(What::Event(next)) => event(next),
                    Some(What::Lost(events)) => EventDocument::Lost { events },
                    None => continue,
                };
                print_events(json, vec![document]);
            }
        }
    }
    Ok(Exit::Passed)
}

fn print(json: bool, document: &impl Serialize, text: impl FnOnce() -> String) {
    if json {
        output::json(document);
    } else {
        Target::Stdout.write(&text());
    }
}

fn print_events(json: bool, events: Vec<EventDocument>) {
    if json {
        output::json_lines(&events);
    } else {
        events.iter().for_each(|event| Target::Stdout.write(&text::event(event, Target::Stdout.width())));
    }
}
