//! `overseer fleet invite`: the command that lets another machine join.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use overseer_protocol::Secret;
use serde::Serialize;

use crate::api::proto;
use crate::client::millis;
use crate::output::Target;

pub(super) const EXAMPLES: &str = "\
Examples:
  overseer fleet invite web                   prints the command for the other machine
  overseer fleet invite web --ttl 1h --address build.example.org:7400
  overseer fleet invite web --token | ssh me@host sudo overseer labor join -

The command is good once. Whoever has it may join the fleet, and gets what its labors are given:
keep it as you keep a password, or pipe it with --token. The machine counts for max_labors, not for
the number of labors that are wanted, and is never replaced; `overseer fleet drain web --labor ID`
ends it for good. The server must listen for other machines: [server] listen.";

/// Lets another machine join
#[derive(Debug, Args)]
pub(in crate::client) struct InviteArgs {
    /// Name of the fleet
    #[arg(value_name = "FLEET")]
    name: String,
    /// How long the machine may take to join; at most 7d
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = crate::client::time, allow_hyphen_values = true)]
    ttl: Duration,
    /// Where the machine reaches this server, if not at the address that it listens on; may be given
    /// often, and is tried in that order
    #[arg(long = "address", value_name = "HOST:PORT")]
    addresses: Vec<String>,
    /// Print only the token, to be piped into `overseer labor join -`
    #[arg(long)]
    pub(super) token: bool,
}

impl InviteArgs {
    pub(super) fn request(self) -> proto::InviteRequest {
        let Self { name, ttl, addresses, .. } = self;
        proto::InviteRequest { fleet: name, ttl_ms: Some(millis(ttl)), addresses }
    }
}

/// An invitation, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Invited {
    labor: String,
    token: Secret<String>,
    command: Secret<String>,
    endpoints: Vec<String>,
    until_ms: u64,
}

impl From<proto::InviteResponse> for Invited {
    fn from(invited: proto::InviteResponse) -> Self {
        let proto::InviteResponse { labor, token, endpoints, until_ms } = invited;
        let command = Secret::new(format!("overseer labor join {token}"));
        Self { labor, token: Secret::new(token), command, endpoints, until_ms }
    }
}

impl Invited {
    /// What is pasted or piped; what there is to know of it goes to standard error.
    pub(super) fn text(&self, only_token: bool) -> String {
        let until = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.until_ms));
        let at = self.endpoints.join(", ");
        let mut about = format!("good once, until {until}; joins as {}\nand calls {at}", self.labor);
        if self.endpoints.iter().all(|endpoint| is_loopback(endpoint)) {
            about.push_str(", which only this machine can reach (--address names another)");
        }
        Target::Stderr.write(&format!("{about}\n"));
        let printed = if only_token { &self.token } else { &self.command };
        format!("{}\n", printed.expose())
    }
}

fn is_loopback(endpoint: &str) -> bool {
    endpoint.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}
