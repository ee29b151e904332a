//! `overseer status` and `overseer reload`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::fleet::{FleetDocument, fleet_table};
use super::trouble::TroubleDocument;
use super::{Channel, Common};
use crate::api::MAX_MESSAGE;
use crate::api::proto::server_client::ServerClient;
use crate::api::proto::{InfoRequest, MetricsRequest, MetricsResponse, ReloadRequest};
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::table::{Cell, render};

const STATUS_EXAMPLES: &str = "\
Examples:
  overseer status
  overseer status --metrics
  overseer status --json | jq '.fleets[] | select(.ready < .wanted)'";

/// Shows the server that runs, and its fleets
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Print its metrics instead, as Prometheus reads them
    #[arg(long)]
    pub(crate) metrics: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

const RELOAD_EXAMPLES: &str = "\
Example:
  overseer serve --check && overseer reload

What cannot change while the server runs is named. A wrong configuration changes nothing.";

/// Lets the server read its configuration again
#[derive(Debug, Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `status --json`.
#[derive(Serialize)]
struct Info {
    version: String,
    pid: u32,
    uptime_ms: u64,
    data: String,
    config: String,
    socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<String>,
    metrics: Option<String>,
    on_stop: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    troubles: Vec<TroubleDocument>,
    fleets: Vec<FleetDocument>,
}

/// `status --metrics --json`.
#[derive(Serialize)]
struct MetricsDocument {
    content_type: String,
    text: String,
}

/// Prints what the server has counted.
pub(super) async fn metrics(channel: Channel, json: bool) -> Result<Exit, Failure> {
    // Some kilobytes for each fleet.
    let mut client = ServerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let response = client.metrics(MetricsRequest::default()).await;
    let MetricsResponse { content_type, text } = response.map_err(|s| understand(&s))?.into_inner();
    if json {
        output::json(&MetricsDocument { content_type, text });
    } else {
        Target::Stdout.write(&text);
    }
    Ok(Exit::Passed)
}

/// `reload --json`.
#[derive(Serialize)]
struct Reloaded {
    changes: Vec<ChangeDocument>,
}

#[derive(Serialize)]
struct ChangeDocument {
    #[serde(skip_serializing_if = "String::is_empty")]
    fleet: String,
    kind: String,
    text: String,
}

/// Shows the server.
pub(super) async fn status(channel: Channel, json: bool) -> Result<Exit, Failure> {
    let info =
        ServerClient::new(channel).info(InfoRequest {}).await.map_err(|s| understand(&s))?.into_inner();
    let info = Info {
        version: info.version,
        pid: info.pid,
        uptime_ms: info.uptime_ms,
        data: info.data_directory,
        config: info.config,
        socket: info.socket,
        listen: info.listen,
        control: info.control.map(|control| format!("https://{control}")),
        metrics: info.metrics,
        on_stop: info.on_stop,
        troubles: info.troubles.into_iter().map(TroubleDocument::from).collect(),
        fleets: info.fleets.into_iter().map(FleetDocument::from).collect(),
    };
    if json {
        output::json(&info);
        return Ok(Exit::Passed);
    }
    let seconds = humantime::format_duration(Duration::from_secs(info.uptime_ms / 1000)).to_string();
    let mut rows = vec![
        ("server", format!("overseer {}, process {}, up {seconds}", info.version, info.pid)),
        ("config", info.config),
        ("data", info.data),
        ("socket", info.socket),
        ("on stop", format!("{} labors", info.on_stop)),
    ];
    if let Some(listen) = info.listen {
        rows.push(("listen", listen));
    }
    if let Some(metrics) = info.metrics {
        rows.push(("metrics", format!("http://{metrics}/metrics")));
    }
    if let Some(control) = info.control {
        rows.push(("control", control));
    }
    rows.extend(info.troubles.iter().map(|now| ("trouble", now.text())));
    // Who sees one fleet is not told of the machine.
    rows.retain(|(_, text)| !text.is_empty());
    let rows: Vec<_> =
        rows.into_iter().map(|(name, text)| vec![Cell::plain(name), Cell::plain(text)]).collect();
    // Paths are of no use when they are cut.
    Target::Stdout.write(&render(&rows, usize::MAX, &[], Target::Stdout));
    if !info.fleets.is_empty() {
        Target::Stdout.write(&format!("\n{}", fleet_table(&info.fleets, Target::Stdout.width())));
    }
    Ok(Exit::Passed)
}

/// Lets the server read its configuration again.
pub(super) async fn reload(channel: Channel, json: bool) -> Result<Exit, Failure> {
    let response = ServerClient::new(channel).reload(ReloadRequest {}).await.map_err(|s| understand(&s))?;
    let changes: Vec<_> = response
        .into_inner()
        .changes
        .into_iter()
        .map(|c| ChangeDocument { fleet: c.fleet, kind: c.kind, text: c.text })
        .collect();
    let failed = changes.iter().any(|change| change.kind == "failed");
    if json {
        output::json(&Reloaded { changes });
    } else if changes.is_empty() {
        Target::Stdout.write("nothing changes\n");
    } else {
        for change in changes {
            let fleet = if change.fleet.is_empty() { "server" } else { &change.fleet };
            Target::Stdout.write(&format!("{fleet}: {}\n", change.text));
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Passed })
}
