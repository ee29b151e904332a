//! `overseer authority`: whose signature labors and clients trust.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Channel, Common};
use crate::api::proto;
use crate::api::proto::tokens_client::TokensClient;
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};

const EXAMPLES: &str = "\
Examples:
  overseer authority show
  overseer authority rotate && watch overseer authority show
  overseer token ca > server-ca.pem           for clients over TCP, before and after";

/// Shows or changes the authority that signs for labors and for the server
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AuthorityArgs {
    #[command(subcommand)]
    pub(super) command: AuthorityCommand,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuthorityCommand {
    Show(ShowArgs),
    Rotate(RotateArgs),
}

const SHOW_EXAMPLES: &str = "\
Example:
  overseer authority show --json | jq -r '.waits_for[].labor'";

/// Says how far a change of the authority is, and for whom it waits
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(super) struct ShowArgs {}

const ROTATE_EXAMPLES: &str = "\
Examples:
  overseer authority rotate
  overseer token ca > server-ca.pem     # then, for every client over TCP

A new authority takes the place of the present one, step by step and by itself: it signs for labors,
which are told to trust both; when the last of them has shown that it does, it signs for the server;
then the old one is trusted no more. No session ends for it. A labor moves over when no call is open
at it, and a machine that was invited when it has joined.

Clients of the control API over TCP are not told by the server. For a week, or as --linger says, it
shows them a certificate of the old authority; give each of them in that time what `overseer token ca`
prints, which has both. With --linger 0s a client that has only the old one is refused within seconds:
do that where the old key may be known to others. `control_cert` in [server] is not changed by this.";

/// Makes a new authority that takes the place of the present one
#[derive(Debug, Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(super) struct RotateArgs {
    /// How long clients over TCP are served that know only the present authority, a week if not given:
    /// `12h`, `30d`, `0s`
    #[arg(long, value_name = "TIME", value_parser = crate::client::time, allow_hyphen_values = true)]
    linger: Option<Duration>,
}

/// `show --json` and `rotate --json`.
#[derive(Serialize)]
struct AuthorityDocument {
    stage: String,
    since_ms: u64,
    ends_ms: u64,
    waits_for: Vec<Waits>,
    /// Until when clients over TCP that know only the old one are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients_until_ms: Option<u64>,
    certificate: String,
}

#[derive(Serialize)]
struct Waits {
    fleet: String,
    labor: String,
}

impl From<proto::AuthorityResponse> for AuthorityDocument {
    fn from(authority: proto::AuthorityResponse) -> Self {
        let waits = authority.waits_for.into_iter();
        Self {
            stage: authority.stage,
            since_ms: authority.since_ms,
            ends_ms: authority.ends_ms,
            waits_for: waits.map(|waits| Waits { fleet: waits.fleet, labor: waits.labor }).collect(),
            clients_until_ms: authority.clients_until_ms,
            certificate: authority.certificate,
        }
    }
}

/// Runs one of the commands.
pub(super) async fn run(command: AuthorityCommand, channel: Channel, json: bool) -> Result<Exit, Failure> {
    let mut client = TokensClient::new(channel);
    let authority = match command {
        AuthorityCommand::Show(ShowArgs {}) => {
            client.authority(proto::AuthorityRequest {}).await.map_err(|s| understand(&s))?.into_inner()
        }
        AuthorityCommand::Rotate(RotateArgs { linger }) => {
            let request = proto::RotateAuthorityRequest { linger_ms: linger.map(super::millis) };
            let rotated = client.rotate_authority(request).await.map_err(|s| understand(&s))?.into_inner();
            rotated.authority.unwrap_or_default()
        }
    };
    let document = AuthorityDocument::from(authority);
    if json {
        output::json(&document);
    } else {
        Target::Stdout.write(&text(&document));
    }
    Ok(Exit::Passed)
}

fn text(authority: &AuthorityDocument) -> String {
    let stage = match &*authority.stage {
        "settled" => "there is one authority",
        "introduced" => "a new authority signs for labors; the old one for the server still",
        _ => "the new authority signs everything; the old one is trusted still",
    };
    let ends = time(authority.ends_ms);
    let mut text = format!("{}: {stage}\nthe newest one ends at {ends}\n", authority.stage);
    if !authority.waits_for.is_empty() {
        text.push_str("it waits for these labors to show a new certificate:\n");
        for Waits { fleet, labor } in &authority.waits_for {
            text.push_str(&format!("  {labor}  {fleet}\n"));
        }
    }
    if let Some(until) = authority.clients_until_ms {
        text.push_str(&format!(
            "clients over TCP are shown a certificate of the old one until {}:\n\
             until then, give each what `overseer token ca` prints, which has both;\n\
             after that, one that has only the old one is refused\n",
            time(until)
        ));
    } else if authority.stage != "settled" {
        text.push_str(
            "clients over TCP that have only the old one are refused when the new one signs for the server:\n\
             give each what `overseer token ca` prints, which has both\n",
        );
    }
    text
}

/// Of milliseconds since the epoch, as RFC 3339.
fn time(ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
