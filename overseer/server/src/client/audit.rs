//! `overseer audit`: who has asked the server for what.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use console::Style;
use serde::Serialize;

use super::{Channel, Common, millis};
use crate::api::proto;
use crate::api::proto::audit_client::AuditClient;
use crate::api::proto::read_audit_response::What;
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::table::{Cell, render};

const EXAMPLES: &str = "\
Examples:
  overseer audit                              the newest 100 entries
  overseer audit --since 24h --fleet web --limit 5000
  overseer audit --denied --json | jq -r '[.at_ms, .from, .by, .outcome] | @tsv'
  overseer audit --follow

What somebody asks for is recorded before it is done, and its outcome after: an entry without one
is open, or its server was killed. Kept are 180 days, and of changes and of uses 20000 each, of what
was denied 5000. Calls and denials that are alike are recorded once a minute, with their number.";

/// Shows who has asked for what, from where, and how it ended
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AuditArgs {
    /// Not those that are older, such as 1h or 30d
    #[arg(long, value_name = "DURATION", value_parser = crate::client::time, allow_hyphen_values = true)]
    since: Option<Duration>,
    /// Only of this fleet
    #[arg(long)]
    fleet: Option<String>,
    /// Only what was denied
    #[arg(long)]
    denied: bool,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Stay, and show each one as it comes
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A line of `audit --json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Audit(Box<Entry>),
    Lost { entries: u64 },
}

#[derive(Serialize)]
struct Entry {
    id: String,
    at_ms: u64,
    kind: String,
    who: String,
    by: String,
    from: String,
    method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fleet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    arguments: String,
    times: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
}

impl From<proto::AuditEntry> for Entry {
    fn from(entry: proto::AuditEntry) -> Self {
        Self {
            id: entry.id,
            at_ms: entry.at_ms,
            kind: entry.kind,
            who: entry.who,
            by: entry.by,
            from: entry.from,
            method: entry.method,
            fleet: entry.fleet,
            target: entry.target,
            arguments: entry.arguments,
            times: entry.times,
            outcome: entry.outcome,
            took_ms: entry.took_ms,
        }
    }
}

/// Shows the log.
pub(super) async fn run(args: &AuditArgs, channel: Channel) -> Result<Exit, Failure> {
    let since = args.since.and_then(|since| SystemTime::now().checked_sub(since));
    let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
    let request = proto::ReadAuditRequest {
        since_ms: since.map_or(0, millis),
        fleet: args.fleet.clone(),
        limit: Some(args.limit),
        follow: args.follow,
        denied: args.denied,
    };
    let mut entries = AuditClient::new(channel).read(request).await.map_err(|s| understand(&s))?.into_inner();
    while let Some(answer) = entries.message().await.map_err(|s| understand(&s))? {
        match (answer.what, args.common.json) {
            (None, _) => {}
            (Some(What::Entry(entry)), true) => output::json(&Line::Audit(Box::new(entry.into()))),
            (Some(What::Lost(entries)), true) => output::json(&Line::Lost { entries }),
            (Some(What::Entry(entry)), false) => Target::Stdout.write(&text(&entry.into())),
            (Some(What::Lost(entries)), false) => {
                Target::Stdout.write(&format!("… {entries} entries are missing here\n"));
            }
        }
    }
    Ok(Exit::Passed)
}

/// Two lines: when, who, from where; what, and how it ended.
fn text(entry: &Entry) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(entry.at_ms);
    let times = if entry.times > 1 { format!(" × {}", entry.times) } else { String::new() };
    let first = format!("{}  {}  {}", humantime::format_rfc3339_seconds(at), entry.by, entry.from);
    let parts = [&entry.method, &entry.fleet, &entry.target, &entry.arguments];
    let what = parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    let (outcome, style) = match entry.outcome.as_deref() {
        None => ("open", Style::new().yellow()),
        Some("ok") => ("ok", Style::new().green()),
        Some(code) => (code, if code == "begun" { Style::new() } else { Style::new().red() }),
    };
    let rows = [vec![Cell::plain(format!("  {what}{times}")), Cell::styled(outcome, style)]];
    format!("{}\n{}", first.trim_end(), render(&rows, Target::Stdout.width(), &[(0, 20)], Target::Stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_two_lines() {
        let entry = Entry {
            id: "1".into(),
            at_ms: 1_700_000_000_000,
            kind: "denied".into(),
            who: "token".into(),
            by: "token 4f2c9a0b1d3e5f60 (ci)".into(),
            from: "10.0.0.1:7".into(),
            method: "Fleets.Stop".into(),
            fleet: "web".into(),
            target: String::new(),
            arguments: String::new(),
            times: 3,
            outcome: Some("access.role".into()),
            took_ms: None,
        };
        let lines = text(&entry);
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines[0], "2023-11-14T22:13:20Z  token 4f2c9a0b1d3e5f60 (ci)  10.0.0.1:7");
        assert_eq!(lines[1], "  Fleets.Stop web × 3  access.role");
    }
}
