//! `[fleets.NAME]`: what a fleet is.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overseer::core::Options;
use overseer::fleet::MAX_SPIN;
use overseer::{Deadlines, Escalation, FleetName, Isolation, ReleaseCache, ReleaseId, Restart};

use super::isolation;
use super::source::Source;
use super::table::{Located, Table, Value};
use crate::failure::Failure;

/// Most labors of a fleet: far above what one server has been tried with.
const MOST_LABORS: u32 = 10_000;
const EXAMPLE: &str = "[fleets.web] with adapter = \"local\" and release = \"web.release\"";

/// How nodes of a fleet come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdapterKind {
    /// Processes on this machine.
    Local,
}

impl AdapterKind {
    /// As the configuration says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
        }
    }
}

/// Where a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReleasePlace {
    /// A file on this machine.
    File(PathBuf),
    /// Anywhere: it is the one of this id, or it is not taken.
    Url(String, ReleaseId),
}

impl fmt::Display for ReleasePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url, _) => f.write_str(url),
        }
    }
}

/// One fleet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FleetConfig {
    pub(crate) name: FleetName,
    pub(crate) adapter: AdapterKind,
    /// What the labors run: a packed release.
    pub(crate) release: Located<ReleasePlace>,
    /// Paths of keys, or keys themselves.
    pub(crate) trust: Vec<Located<String>>,
    pub(crate) unsigned: bool,
    /// How many labors are kept.
    pub(crate) labors: u32,
    pub(crate) options: Options,
    /// Variables of what the labors run.
    pub(crate) environment: BTreeMap<String, String>,
    /// What the nodes keep of releases.
    pub(crate) release_cache: ReleaseCache,
    /// What the plugin hosts may be and use.
    pub(crate) isolation: Isolation,
}

impl FleetConfig {
    /// Reads one; paths are relative to `base`.
    pub(super) fn read(
        source: &Source,
        name: &str,
        name_span: &Range<usize>,
        value: &Value<'_>,
        base: &Path,
    ) -> Result<Self, Failure> {
        let path = format!("fleets.{name}");
        let parsed: FleetName = name.parse().map_err(|_| {
            let help = "use 1 to 63 of a-z, 0-9 and -, starting with a letter";
            let message = format!("a fleet cannot be called {name:?}");
            source.mistake("config.value", name_span, Some(&path), message, help)
        })?;
        let mut table = Table::of(source, &path, value, EXAMPLE)?;
        // A table of the TOML has no span of its own beyond its header: the name says where.
        table.span = name_span.clone();
        let adapter = table.choice("adapter", &[("local", AdapterKind::Local)])?;
        let adapter = adapter.map(|value| Located { value, span: name_span.clone() });
        let adapter = table.required("adapter", adapter, "\"local\"")?.value;
        let release = release(&table, base)?;
        let trust = table.texts("trust", "[\"me.pub\"]")?.unwrap_or_default();
        let unsigned = table.choice("unsigned", &[("require", false), ("allow", true)])?.unwrap_or(false);
        let labors = table.count("labors", 0..=MOST_LABORS)?;
        let options = options(&table)?;
        let kept = labors.as_ref().map_or(1, |l| l.value);
        if kept as usize > options.max_nodes {
            let span = labors.map_or(name_span.clone(), |l| l.span);
            let message = format!("{kept} labors are more than max_labors, {}", options.max_nodes);
            return Err(table.wrong("labors", &span, message, format!("allow max_labors = {kept}")));
        }
        let environment = environment(&table)?;
        let release_cache = release_cache(&table, base)?;
        let isolation = isolation::read(&table)?;
        table.finish()?;
        Ok(Self {
            name: parsed,
            adapter,
            release,
            trust,
            unsigned,
            labors: kept,
            options,
            environment,
            release_cache,
            isolation,
        })
    }

    /// The keys whose values differ from another one's, but `labors`.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let texts = |keys: &[Located<String>]| keys.iter().map(|k| k.value.clone()).collect::<Vec<_>>();
        let (a, b) = (&self.options, &other.options);
        let all = [
            ("adapter", self.adapter != other.adapter),
            ("release", self.release.value != other.release.value),
            ("trust", texts(&self.trust) != texts(&other.trust)),
            ("unsigned", self.unsigned != other.unsigned),
            ("max_labors", a.max_nodes != b.max_nodes),
            ("restart", a.restart != b.restart),
            ("intensity", (a.intensity, a.period) != (b.intensity, b.period)),
            ("escalation", a.escalation != b.escalation),
            ("heartbeat", a.heartbeat != b.heartbeat),
            ("silence", a.silence != b.silence),
            ("grace", a.grace != b.grace),
            ("lease", a.lease != b.lease),
            ("spin", a.spin != b.spin),
            ("task_retention", a.task_retention != b.task_retention),
            ("deadlines", a.deadlines != b.deadlines),
            ("environment", self.environment != other.environment),
            ("release_cache", self.release_cache != other.release_cache),
            ("isolation", self.isolation != other.isolation),
        ];
        all.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

fn options(table: &Table<'_, '_>) -> Result<Options, Failure> {
    let mut options = Options::default();
    if let Some(most) = table.count("max_labors", 1..=MOST_LABORS)? {
        options.max_nodes = most.value as usize;
    }
    let restarts = [
        ("permanent", Restart::Permanent),
        ("transient", Restart::Transient),
        ("temporary", Restart::Temporary),
    ];
    options.restart = table.choice("restart", &restarts)?.unwrap_or(options.restart);
    if let Some(intensity) = table.table("intensity", "intensity = { restarts = 10, period = \"1m\" }")? {
        if let Some(restarts) = intensity.count("restarts", 0..=1_000_000)? {
            options.intensity = restarts.value;
        }
        set(&mut options.period, intensity.duration("period")?);
        intensity.finish()?;
    }
    let escalations = [("give_up_labor", Escalation::GiveUpLabor), ("stop_fleet", Escalation::StopFleet)];
    options.escalation = table.choice("escalation", &escalations)?.unwrap_or(options.escalation);
    let heartbeat = table.duration("heartbeat")?;
    let silence = table.duration("silence")?;
    set(&mut options.grace, table.duration("grace")?);
    let lease = table.duration("lease")?;
    let place = |first: &Option<Located<Duration>>, second: &Option<Located<Duration>>| {
        first.as_ref().or(second.as_ref()).map_or(table.span.clone(), |l| l.span.clone())
    };
    let (silence_span, lease_span) = (place(&silence, &heartbeat), place(&lease, &silence));
    set(&mut options.heartbeat, heartbeat);
    set(&mut options.silence, silence);
    set(&mut options.lease, lease);
    let longer = |key, span: &Range<usize>, than: &str, least: Duration| {
        let least = humantime::format_duration(least);
        let message = format!("`{key}` is not longer than `{than}`, which is {least}");
        table.wrong(key, span, message, format!("write {key} = \"…\" with more than {least}"))
    };
    if options.silence <= options.heartbeat {
        return Err(longer("silence", &silence_span, "heartbeat", options.heartbeat));
    }
    if options.lease <= options.silence {
        return Err(longer("lease", &lease_span, "silence", options.silence));
    }
    let help =
        "write spin = \"50us\", and 1ms at most: a processor does nothing else meanwhile; or leave it out";
    if let Some(spin) = table.duration_as("spin", help)? {
        if spin.value > MAX_SPIN {
            let message = format!("{} is longer than 1ms", humantime::format_duration(spin.value));
            return Err(table.wrong("spin", &spin.span, message, help));
        }
        options.spin = spin.value;
    }
    set(&mut options.task_retention, table.duration("task_retention")?);
    if let Some(deadlines) = table.table("deadlines", "deadlines = { boot = \"60s\" }")? {
        options.deadlines = read_deadlines(&deadlines)?;
    }
    Ok(options)
}

fn read_deadlines(table: &Table<'_, '_>) -> Result<Deadlines, Failure> {
    let mut deadlines = Deadlines::default();
    set(&mut deadlines.provision, table.duration("provision")?);
    set(&mut deadlines.boot, table.duration("boot")?);
    set(&mut deadlines.join, table.duration("join")?);
    set(&mut deadlines.load, table.duration("load")?);
    set(&mut deadlines.start, table.duration("start")?);
    set(&mut deadlines.drain, table.duration("drain")?);
    set(&mut deadlines.stop, table.duration("stop")?);
    set(&mut deadlines.terminate, table.duration("terminate")?);
    table.finish()?;
    Ok(deadlines)
}

fn environment(table: &Table<'_, '_>) -> Result<BTreeMap<String, String>, Failure> {
    let Some(pairs) = table.table("environment", "environment = { GREETING = \"hi\" }")? else {
        return Ok(BTreeMap::new());
    };
    let mut all = BTreeMap::new();
    for (name, span, value) in pairs.pairs()? {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("a variable cannot be called {name:?}");
            return Err(pairs.wrong(name, &span, message, "use a name without `=`"));
        }
        if value.contains('\0') {
            return Err(pairs.wrong(name, &span, "the value has a zero byte", "remove it"));
        }
        all.insert(name.to_owned(), value);
    }
    Ok(all)
}

/// `release`, and `release_id` with a URL.
fn release(table: &Table<'_, '_>, base: &Path) -> Result<Located<ReleasePlace>, Failure> {
    let release = table.text("release", "\"web-1.0.0.release\"")?;
    let Located { value, span } = table.required("release", release, "\"web-1.0.0.release\"")?;
    let id = table.text("release_id", "the id that `overseer release inspect` prints")?;
    let is_url = value.starts_with("https://") || value.starts_with("http://");
    if let Some((scheme, _)) = value.split_once("://").filter(|_| !is_url) {
        let message = format!("a release is not fetched over {scheme}");
        return Err(table.wrong("release", &span, message, "name a path, or an http:// or https:// address"));
    }
    let value = match (is_url, id) {
        (false, None) => ReleasePlace::File(base.join(value)),
        (false, Some(id)) => {
            let message = "a file on this machine is what it is: an id is for a URL";
            return Err(table.wrong("release_id", &id.span, message, "remove it"));
        }
        (true, id) => {
            let example = "\"64 hexadecimal digits, as `overseer release inspect` prints them\"";
            let id = table.required("release_id", id, example)?;
            let parsed = id.value.to_ascii_lowercase().parse().map_err(|error| {
                let help = "write the id that `overseer release inspect` prints";
                table.wrong("release_id", &id.span, format!("{error}"), help)
            })?;
            ReleasePlace::Url(value, parsed)
        }
    };
    Ok(Located { value, span })
}

fn release_cache(table: &Table<'_, '_>, base: &Path) -> Result<ReleaseCache, Failure> {
    let mut cache = ReleaseCache::default();
    if let Some(table) = table.table("release_cache", "release_cache = { quota = \"2GiB\" }")? {
        let directory = table.text("directory", "\"/var/cache/overseer\"")?;
        cache.directory = directory.map(|directory| base.join(directory.value));
        cache.quota = table.bytes("quota")?.map_or(cache.quota, |quota| quota.value);
        table.finish()?;
    }
    Ok(cache)
}

fn set(option: &mut Duration, value: Option<Located<Duration>>) {
    if let Some(value) = value {
        *option = value.value;
    }
}
