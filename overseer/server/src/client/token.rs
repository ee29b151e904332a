//! `overseer token`: who may ask the server over TCP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use console::Style;
use serde::Serialize;

use super::{Channel, Common, millis};
use crate::access::Role;
use crate::api::proto;
use crate::api::proto::fleets_client::FleetsClient;
use crate::api::proto::tokens_client::TokensClient;
use crate::api::status::understand;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Target};
use crate::table::{Cell, render};

const EXAMPLES: &str = "\
Examples:
  overseer token new --name ci --role operator --fleet web --out ci.token
  overseer token list
  overseer token rotate 4f2c9a0b1d3e5f60 --overlap 1h --out ci.token
  overseer token revoke 4f2c9a0b1d3e5f60
  overseer token ca > server-ca.pem

Elsewhere:
  export OVERSEER_SERVER=https://overseer.example.org:7401 OVERSEER_SERVER_CA=server-ca.pem
  export OVERSEER_TOKEN_FILE=ci.token          or OVERSEER_TOKEN with the token itself
  overseer fleet list";

/// Makes, lists, ends and renews the tokens of those who ask over TCP
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(super) command: TokenCommand,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    New(NewArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
    Rotate(RotateArgs),
    Ca(CaArgs),
}

const NEW_EXAMPLES: &str = "\
Examples:
  overseer token new --name ci --role operator --fleet web --out ci.token
  overseer token new --name anna --role admin --expires never

The token is shown once and kept as a hash: what is lost cannot be shown again.";

/// Makes a token and prints it, once
#[derive(Debug, Args)]
#[command(after_help = NEW_EXAMPLES)]
pub(super) struct NewArgs {
    /// What it is for; people see it in lists and in the audit log
    #[arg(long)]
    name: String,
    /// What it may do; each role may what the ones before it may
    #[arg(long, value_enum)]
    role: Role,
    /// It sees and does only this fleet
    #[arg(long)]
    fleet: Option<String>,
    /// Its end, from now, such as 12h or 30d; or `never`
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lives, allow_hyphen_values = true)]
    expires: Lives,
    /// New file for the token, mode 0600; else it is printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const LIST_EXAMPLES: &str = "\
Examples:
  overseer token list
  overseer token list --all --json | jq '.tokens[] | select(.state == \"expired\")'";

/// Lists tokens; never their secrets
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    /// Also those that have ended within the last 30 days
    #[arg(long)]
    all: bool,
}

const REVOKE_EXAMPLES: &str = "\
Example:
  overseer token revoke 4f2c9a0b1d3e5f60

What is open under it ends too.";

/// Ends a token at once
#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(super) struct RevokeArgs {
    /// Its id: the digits after `ovr_`
    id: String,
}

const ROTATE_EXAMPLES: &str = "\
Examples:
  overseer token rotate 4f2c9a0b1d3e5f60 --out ci.token
  overseer token rotate 4f2c9a0b1d3e5f60 --overlap 0s --expires 90d

The old secret stays good for the overlap, so that nobody is cut off while the new one is brought
to those who use it. One that may be known to others is better revoked.";

/// Gives a token a new secret and prints it, once
#[derive(Debug, Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(super) struct RotateArgs {
    /// Its id: the digits after `ovr_`
    id: String,
    /// How long the old secret stays good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::client::time, allow_hyphen_values = true)]
    overlap: Duration,
    /// A new end, from now; else the old one stays
    #[arg(long, value_name = "DURATION", value_parser = crate::client::time, allow_hyphen_values = true)]
    expires: Option<Duration>,
    /// File for the token, mode 0600, in place of the one that is there; else it is printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const CA_EXAMPLES: &str = "\
Example:
  overseer token ca > server-ca.pem && overseer status --server https://host:7401 \\
      --server-ca server-ca.pem --token-file ci.token

It is the Overseer's own authority. Where `control_cert` is set, trust that one's authority instead.";

/// Prints the certificate that clients over TCP must trust; no secret
#[derive(Debug, Args)]
#[command(after_help = CA_EXAMPLES)]
pub(super) struct CaArgs {}

#[derive(Debug, Clone, Copy)]
struct Lives(Option<Duration>);

fn lives(text: &str) -> Result<Lives, String> {
    if text == "never" {
        return Ok(Lives(None));
    }
    super::time(text).map(|lives| Lives(Some(lives)))
}

/// A token as a document.
#[derive(Serialize)]
struct TokenDocument {
    id: String,
    name: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    state: String,
    created_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap_ms: Option<u64>,
    /// Only of one that was made or renewed just now, and is not in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The file that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<TokenDocument>,
}

#[derive(Serialize)]
struct Authority {
    certificate: String,
}

impl TokenDocument {
    fn of(token: Option<proto::Token>, text: Option<String>) -> Self {
        let token = token.unwrap_or_default();
        Self {
            id: token.id,
            name: token.name,
            role: token.role,
            fleet: token.fleet,
            state: token.state,
            created_ms: token.created_ms,
            expires_ms: token.expires_ms,
            revoked_ms: token.revoked_ms,
            overlap_ms: token.overlap_ms,
            token: text,
            file: None,
        }
    }
}

/// Runs one of the commands.
pub(super) async fn run(command: TokenCommand, channel: Channel, json: bool) -> Result<Exit, Failure> {
    let others = FleetsClient::new(channel.clone());
    let mut client = TokensClient::new(channel);
    match command {
        TokenCommand::New(args) => {
            let out = args.out.map(|path| Out::open(path, false)).transpose()?;
            let request = proto::CreateTokenRequest {
                name: args.name,
                role: args.role.name().to_owned(),
                fleet: args.fleet,
                lives_ms: args.expires.0.map(millis),
            };
            let fleet = request.fleet.clone();
            let made = client.create(request).await.map_err(|s| understand(&s))?.into_inner();
            shown_once(made.token, made.text, out, json)?;
            if let Some(fleet) = fleet {
                warn_of_no_fleet(&fleet, others).await;
            }
        }
        TokenCommand::List(ListArgs { all }) => {
            let request = proto::ListTokensRequest { all };
            let tokens = client.list(request).await.map_err(|s| understand(&s))?.into_inner().tokens;
            let tokens: Vec<_> = tokens.into_iter().map(|t| TokenDocument::of(Some(t), None)).collect();
            if json {
                output::json(&Tokens { tokens });
            } else {
                Target::Stdout.write(&table(&tokens, SystemTime::now(), Target::Stdout.width()));
            }
        }
        TokenCommand::Revoke(RevokeArgs { id }) => {
            let request = proto::RevokeTokenRequest { id };
            let revoked = client.revoke(request).await.map_err(|s| understand(&s))?.into_inner();
            let document = TokenDocument::of(revoked.token, None);
            if json {
                output::json(&document);
            } else {
                Target::Stdout.write(&format!("token {} ({}) is revoked\n", document.id, document.name));
            }
        }
        TokenCommand::Rotate(args) => {
            let out = args.out.map(|path| Out::open(path, true)).transpose()?;
            let request = proto::RotateTokenRequest {
                id: args.id,
                overlap_ms: millis(args.overlap),
                lives_ms: args.expires.map(millis),
            };
            let rotated = client.rotate(request).await.map_err(|s| understand(&s))?.into_inner();
            shown_once(rotated.token, rotated.text, out, json)?;
        }
        TokenCommand::Ca(CaArgs {}) => {
            let request = proto::AuthorityRequest {};
            let authority = client.authority(request).await.map_err(|s| understand(&s))?.into_inner();
            if json {
                output::json(&Authority { certificate: authority.certificate });
            } else {
                Target::Stdout.write(&authority.certificate);
            }
        }
    }
    Ok(Exit::Passed)
}

/// A fleet may be configured later than its token is made, but as a rule it is a slip of the pen.
async fn warn_of_no_fleet(name: &str, mut fleets: FleetsClient<Channel>) {
    let Ok(listed) = fleets.list(proto::ListFleetsRequest {}).await else { return };
    if !listed.get_ref().fleets.iter().any(|fleet| fleet.name == name) {
        Target::Stderr
            .write(&format!("warning: there is no fleet {name} now; `overseer fleet list` has them\n"));
    }
}

/// A file that gets a token, and its name when it has it. Made before the token is, so that none is
/// lost for want of a place.
struct Out {
    path: PathBuf,
    file: tempfile::NamedTempFile,
    replace: bool,
}

impl Out {
    fn open(path: PathBuf, replace: bool) -> Result<Self, Failure> {
        if !replace && path.exists() {
            return Err(unusable(&path, "it is there already"));
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Of mode 0600.
        let file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")));
        let file = file.map_err(|error| unusable(&path, &error.to_string()))?;
        Ok(Self { path, file, replace })
    }

    fn write(mut self, token: &str) -> Result<PathBuf, Failure> {
        let failed = |error: &std::io::Error| unusable(&self.path, &error.to_string());
        let written = writeln!(self.file, "{token}").and_then(|()| self.file.as_file().sync_all());
        written.map_err(|error| failed(&error))?;
        let kept = match self.replace {
            true => self.file.persist(&self.path),
            false => self.file.persist_noclobber(&self.path),
        };
        kept.map_err(|error| unusable(&self.path, &error.error.to_string()))?;
        Ok(self.path)
    }
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::input("token.out", format!("{} cannot be written: {why}", path.display()))
        .help("give another --out; a token that was made already is in `overseer token list`: revoke it")
}

/// Standard output has the token alone, so that it can be taken from there.
fn shown_once(
    token: Option<proto::Token>,
    text: String,
    out: Option<Out>,
    json: bool,
) -> Result<(), Failure> {
    let mut document = TokenDocument::of(token, None);
    match out {
        Some(out) => document.file = Some(out.write(&text)?),
        None => document.token = Some(text),
    }
    if json {
        output::json(&document);
        return Ok(());
    }
    if let Some(token) = &document.token {
        Target::Stdout.write(&format!("{token}\n"));
    }
    let only = document.fleet.as_ref().map(|fleet| format!(" of fleet {fleet}")).unwrap_or_default();
    let end = until(document.expires_ms, SystemTime::now());
    let place = match &document.file {
        Some(path) => format!("it is in {}", path.display()),
        None => "it is shown only now".to_owned(),
    };
    Target::Stderr.write(&format!(
        "token {} ({}), {}{only}, {end}; {place}\n",
        document.id, document.name, document.role
    ));
    Ok(())
}

fn table(tokens: &[TokenDocument], now: SystemTime, width: usize) -> String {
    let head = ["token", "name", "role", "fleet", "state", "end"];
    let style = Style::new().bold();
    let mut rows = vec![head.map(|text| Cell::styled(text, style.clone())).to_vec()];
    for token in tokens {
        let end = if token.state == "good" { until(token.expires_ms, now) } else { String::new() };
        let cells = [
            &token.id,
            &token.name,
            &token.role,
            token.fleet.as_ref().unwrap_or(&String::new()),
            &token.state,
            &end,
        ]
        .map(Cell::plain);
        rows.push(cells.to_vec());
    }
    render(&rows, width, &[(1, 8), (3, 8)], Target::Stdout)
}

/// When something ends, in words.
fn until(expires_ms: Option<u64>, now: SystemTime) -> String {
    let Some(end) = expires_ms else { return "never ends".to_owned() };
    let now = millis(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let seconds = end.saturating_sub(now) / 1000;
    // To the nearest: of one for 90 days, made just now, it is not said that it has 89.
    let nearest = |unit: u64| (seconds + unit / 2) / unit;
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (nearest(60), "min"),
        7200..172_800 => (nearest(3600), "h"),
        _ => (nearest(86_400), "days"),
    };
    format!("in {number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_and_ends_are_in_words() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| Some((1_000_000 + seconds) * 1000);
        assert_eq!(until(at(90 * 86_400), now), "in 90 days");
        assert_eq!(until(at(90 * 86_400 - 2), now), "in 90 days");
        assert_eq!((until(at(30), now), until(None, now)), ("in 30 s".into(), "never ends".into()));
        let token = |name: &str| proto::Token {
            id: "4f2c9a0b1d3e5f60".into(),
            name: name.into(),
            role: "operator".into(),
            fleet: Some("f".repeat(63)),
            state: "good".into(),
            expires_ms: at(7200),
            ..proto::Token::default()
        };
        let tokens = [TokenDocument::of(Some(token(&"n".repeat(64))), None)];
        for line in table(&tokens, now, 80).lines() {
            assert!(console::measure_text_width(line) <= 80, "{line}");
        }
    }

    #[test]
    fn an_end_is_a_duration_or_never() {
        assert!(lives("never").unwrap().0.is_none());
        assert_eq!(lives("90d").unwrap().0, Some(Duration::from_secs(90 * 86_400)));
        assert!(lives("soon").is_err());
    }
}
