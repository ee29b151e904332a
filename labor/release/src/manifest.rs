use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::path::ArchivePath;

/// The target that this crate is compiled for: what a manifest without `target` means.
pub const HOST_TARGET: &str = env!("OVERSEER_RELEASE_TARGET");
/// The major version of the plugin ABI that a manifest without `abi` means.
pub const DEFAULT_ABI: u32 = 1;
/// Name of the manifest in a directory and in an archive.
pub const MANIFEST_FILE: &str = "release.toml";

/// What a release is and how it is run; `release.toml`, and part of the signed index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Flat", try_from = "Flat")]
pub struct Manifest {
    /// 1 to 63 of `a-z 0-9 - _ .`, starting with a letter.
    pub name: String,
    /// Semantic version, for people; what counts is the release's id.
    pub version: Version,
    /// Triple of the machines that it runs on.
    pub target: String,
    /// Path in the archive: the library or the executable.
    pub entry: String,
    /// Plugin or program, with what belongs to each.
    pub kind: Kind,
    /// When what runs the release is started again.
    pub restart: Restart,
    /// On a labor that runs another release it starts when that has stopped, with what that has left;
    /// else both run until the other one has finished its calls.
    pub handover: bool,
    /// Added to the environment of what runs the release.
    pub environment: BTreeMap<String, String>,
}

/// The two kinds of releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A `cdylib` that a plugin host loads.
    Plugin {
        /// Major version of the plugin ABI.
        abi: u32,
    },
    /// An executable.
    Program {
        /// Its arguments.
        args: Vec<String>,
        /// What it does with its standard streams.
        mode: Mode,
    },
}

impl Kind {
    /// `plugin` or `program`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plugin { .. } => "plugin",
            Self::Program { .. } => "program",
        }
    }
}

/// How a program works with the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The agent runs it and restarts it; its output is a log stream.
    #[default]
    Supervise,
    /// It answers calls: the plugin host's protocol on its standard input.
    Serve,
}

/// When what runs the release is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Whenever it ends; the default of a plugin.
    Always,
    /// When it ends with a failure; the default of a program.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    fn default_of(kind: &Kind) -> Self {
        match kind {
            Kind::Plugin { .. } => Self::Always,
            Kind::Program { .. } => Self::OnFailure,
        }
    }
}

/// A value that its key does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {message}")]
pub struct FieldError {
    /// The key, as in `environment.PATH`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl FieldError {
    fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl Manifest {
    /// A plugin with every default.
    pub fn plugin(name: impl Into<String>, version: Version, entry: impl Into<String>) -> Self {
        Self::with_kind(name.into(), version, entry.into(), Kind::Plugin { abi: DEFAULT_ABI })
    }

    /// A program with every default.
    pub fn program(name: impl Into<String>, version: Version, entry: impl Into<String>) -> Self {
        let kind = Kind::Program { args: Vec::new(), mode: Mode::default() };
        Self::with_kind(name.into(), version, entry.into(), kind)
    }

    fn with_kind(name: String, version: Version, entry: String, kind: Kind) -> Self {
        let restart = Restart::default_of(&kind);
        let target = HOST_TARGET.to_owned();
        Self { name, version, target, entry, kind, restart, handover: false, environment: BTreeMap::new() }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first key whose value is not allowed.
    pub fn check(&self) -> Result<(), FieldError> {
        check_name(&self.name)?;
        if self.version.to_string().len() > 64 {
            return Err(FieldError::new("version", "has more than 64 characters; shorten it"));
        }
        check_target(&self.target)?;
        if self.entry == MANIFEST_FILE {
            return Err(FieldError::new("entry", "is the manifest; name the library or executable"));
        }
        ArchivePath::new(&self.entry).map_err(|fault| FieldError::new("entry", fault.to_string()))?;
        match &self.kind {
            Kind::Plugin { abi: 0 } => return Err(FieldError::new("abi", "is 0; the first ABI is 1")),
            Kind::Program { args, .. } if args.iter().any(|arg| arg.contains('\0')) => {
                return Err(FieldError::new("args", "has a NUL character in it; remove it"));
            }
            _ => {}
        }
        self.environment.iter().try_for_each(|(name, value)| check_variable(name, value))
    }

    /// `NAME-VERSION.release`, what the packed file is called.
    pub fn file_name(&self) -> String {
        format!("{}-{}.release", self.name, self.version)
    }
}

fn check_name(name: &str) -> Result<(), FieldError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    let good =
        name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(allowed);
    if good {
        return Ok(());
    }
    Err(FieldError::new("name", "must be 1 to 63 of a-z, 0-9, `-`, `_` and `.`, starting with a letter"))
}

fn check_target(target: &str) -> Result<(), FieldError> {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    if target.len() <= 64 && (2..=4).contains(&target.split('-').count()) && target.split('-').all(part) {
        return Ok(());
    }
    Err(FieldError::new("target", format!("must be a target triple, such as {HOST_TARGET}")))
}

fn check_variable(name: &str, value: &str) -> Result<(), FieldError> {
    let key = || format!("environment.{name}");
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(FieldError::new(key(), "must be a variable's name: not empty, without `=` and NUL"));
    }
    if value.contains('\0') {
        return Err(FieldError::new(key(), "has a NUL character in its value; remove it"));
    }
    Ok(())
}

/// The manifest as it is written: one table, with keys that only one kind has.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flat {
    name: Option<String>,
    version: Option<String>,
    kind: Option<FlatKind>,
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abi: Option<u32>,
    entry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    restart: Option<Restart>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    handover: bool,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FlatKind {
    Plugin,
    Program,
}

impl From<Manifest> for Flat {
    fn from(manifest: Manifest) -> Self {
        let (kind, abi, args, mode) = match manifest.kind {
            Kind::Plugin { abi } => (FlatKind::Plugin, Some(abi), None, None),
            Kind::Program { args, mode } => (FlatKind::Program, None, Some(args), Some(mode)),
        };
        Self {
            name: Some(manifest.name),
            version: Some(manifest.version.to_string()),
            kind: Some(kind),
            target: Some(manifest.target),
            abi,
            entry: Some(manifest.entry),
            args,
            mode,
            restart: Some(manifest.restart),
            handover: manifest.handover,
            environment: manifest.environment,
        }
    }
}

impl TryFrom<Flat> for Manifest {
    type Error = FieldError;

    fn try_from(flat: Flat) -> Result<Self, FieldError> {
        let missing = |key: &str, example: &str| FieldError::new(key, format!("is missing; add {example}"));
        let name = flat.name.ok_or_else(|| missing("name", "`name = \"hello\"`"))?;
        let version = flat.version.ok_or_else(|| missing("version", "`version = \"1.0.0\"`"))?;
        let version = Version::parse(&version).map_err(|error| {
            FieldError::new("version", format!("is no semantic version such as 1.0.0: {error}"))
        })?;
        let kind = flat.kind.ok_or_else(|| missing("kind", "`kind = \"plugin\"` or `kind = \"program\"`"))?;
        let entry = flat.entry.ok_or_else(|| missing("entry", "`entry = \"libhello.so\"`"))?;
        let only = |key: &str, kind: &str| {
            FieldError::new(key, format!("is for `kind = \"{kind}\"` only; remove it"))
        };
        let kind = match kind {
            FlatKind::Plugin if flat.args.is_some() => return Err(only("args", "program")),
            FlatKind::Plugin if flat.mode.is_some() => return Err(only("mode", "program")),
            FlatKind::Plugin => Kind::Plugin { abi: flat.abi.unwrap_or(DEFAULT_ABI) },
            FlatKind::Program if flat.abi.is_some() => return Err(only("abi", "plugin")),
            FlatKind::Program => {
                Kind::Program { args: flat.args.unwrap_or_default(), mode: flat.mode.unwrap_or_default() }
            }
        };
        let manifest = Self {
            name,
            version,
            target: flat.target.unwrap_or_else(|| HOST_TARGET.to_owned()),
            entry,
            restart: flat.restart.unwrap_or_else(|| Restart::default_of(&kind)),
            kind,
            handover: flat.handover,
            environment: flat.environment,
        };
        manifest.check()?;
        Ok(manifest)
    }
}
