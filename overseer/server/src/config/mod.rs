//! `overseer.toml`: what a server serves.

mod control;
mod fleet;
mod isolation;
mod plan;
mod source;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overseer::FleetName;
use toml::de::DeTable;

pub(crate) use self::fleet::{AdapterKind, FleetConfig};
pub(crate) use self::plan::{FETCHING, Fetch, FleetPlan, Plan};
use self::source::Source;
use self::table::Table;
use crate::failure::Failure;
use crate::otlp::Collector;

/// A configuration with every key, explained.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");

/// What becomes of the labors when the server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnStop {
    /// They go on until their lease ends, so that a server that starts soon finds them.
    Keep,
    /// They are ended with it.
    End,
}

impl OnStop {
    /// As the configuration says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::End => "end",
        }
    }
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdentityFiles {
    /// With its chain.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerConfig {
    /// Data directory.
    pub(crate) data: Option<PathBuf>,
    /// Where the control API listens.
    pub(crate) socket: Option<PathBuf>,
    /// Where labors on other machines call.
    pub(crate) listen: Option<SocketAddr>,
    /// Where the control API listens beside the socket, with TLS.
    pub(crate) control: Option<SocketAddr>,
    /// Its certificate, where it is not of the Overseer's own authority.
    pub(crate) control_identity: Option<IdentityFiles>,
    /// Names of the server in a certificate of its own authority.
    pub(crate) control_names: Vec<String>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where spans go.
    pub(crate) otlp: Option<Collector>,
    pub(crate) on_stop: OnStop,
    /// How long open requests may take when the server stops.
    pub(crate) grace: Duration,
}

/// A whole file, read and checked by itself; nothing that it names was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) server: ServerConfig,
    pub(crate) fleets: BTreeMap<FleetName, FleetConfig>,
    source: Source,
    /// What paths in it are relative to.
    base: PathBuf,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `config.…`, with the place of the mistake.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::input("config.io", format!("{name} cannot be read: {error}"))
                .help("check the path; `overseer serve --example` prints a file to begin with")
        })?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::parse(&name, text, path.parent().unwrap_or(Path::new("/")))
    }

    /// Reads the text of a file; paths in it are relative to `base`.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub(crate) fn parse(name: &str, text: String, base: &Path) -> Result<Self, Failure> {
        let source = Source { name: name.to_owned(), text };
        let document = DeTable::parse(&source.text).map_err(|error| {
            let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
            let span = error.span().unwrap_or(0..0);
            source.mistake("config.syntax", &span, None, message, "mend the syntax; see https://toml.io")
        })?;
        let top = Table::top(&source, document.get_ref());
        let server = match top.table("server", "[server]")? {
            Some(table) => Self::server(&table, base)?,
            None => ServerConfig::default(),
        };
        let mut fleets = BTreeMap::new();
        if let Some(table) = top.table("fleets", "[fleets.NAME]")? {
            for (name, span, value) in table.entries() {
                let fleet = FleetConfig::read(&source, name, &span, value, base)?;
                fleets.insert(fleet.name.clone(), fleet);
            }
        }
        top.finish()?;
        drop(top);
        Ok(Self { server, fleets, source: source.clone(), base: base.to_owned() })
    }

    fn server(table: &Table<'_, '_>, base: &Path) -> Result<ServerConfig, Failure> {
        let mut server = ServerConfig::default();
        let path = |text: table::Located<String>| base.join(text.value);
        server.data = table.text("data", "\"/var/lib/overseer\"")?.map(path);
        server.socket = table.text("socket", "\"/run/overseer/control.sock\"")?.map(path);
        if let Some(text) = table.text("listen", "\"0.0.0.0:7400\"")? {
            let address = text.value.parse().map_err(|_| {
                let message = format!("{:?} is not an address and a port", text.value);
                let help = "write listen = \"0.0.0.0:7400\", or \"[::]:7400\" for IPv6";
                table.wrong("listen", &text.span, message, help)
            })?;
            server.listen = Some(address);
        }
        control::read(table, base, &mut server)?;
        server.metrics = metrics(table)?;
        if let Some(text) = table.text("otlp", "\"http://127.0.0.1:4317\"")? {
            let collector = Collector::parse(&text.value).map_err(|message| {
                table.wrong("otlp", &text.span, message, "write otlp = \"http://127.0.0.1:4317\"")
            })?;
            server.otlp = Some(collector);
        }
        let choices = [("keep", OnStop::Keep), ("end", OnStop::End)];
        server.on_stop = table.choice("on_stop", &choices)?.unwrap_or(server.on_stop);
        server.grace = table.duration("grace")?.map_or(server.grace, |g| g.value);
        table.finish()?;
        Ok(server)
    }
}

/// Where metrics are served. Anybody who can connect there reads them, so an address that others
/// reach has to be asked for.
fn metrics(table: &Table<'_, '_>) -> Result<Option<SocketAddr>, Failure> {
    let open = table.flag("metrics_open")?.unwrap_or(false);
    let Some(text) = table.text("metrics", "\"127.0.0.1:9464\"")? else { return Ok(None) };
    let address: SocketAddr = text.value.parse().map_err(|_| {
        let message = format!("{:?} is not an address and a port", text.value);
        table.wrong("metrics", &text.span, message, "write metrics = \"127.0.0.1:9464\"")
    })?;
    if !address.ip().is_loopback() && !open {
        let message = format!("{} can be reached by others, and metrics are shown to anybody", address.ip());
        let help = "write metrics = \"127.0.0.1:9464\", or add metrics_open = true if that is meant";
        return Err(table.wrong("metrics", &text.span, message, help));
    }
    Ok(Some(address))
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            data: None,
            socket: None,
            listen: None,
            control: None,
            control_identity: None,
            control_names: Vec::new(),
            metrics: None,
            otlp: None,
            on_stop: OnStop::Keep,
            grace: Duration::from_secs(10),
        }
    }
}

impl ServerConfig {
    /// The keys whose values differ from another one's and are used only when a server starts.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let all = [
            ("data", self.data != other.data),
            ("socket", self.socket != other.socket),
            ("listen", self.listen != other.listen),
            ("control", self.control != other.control),
            ("control_cert", self.control_identity != other.control_identity),
            ("control_names", self.control_names != other.control_names),
            ("metrics", self.metrics != other.metrics),
            ("otlp", self.otlp != other.otlp),
        ];
        all.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}
