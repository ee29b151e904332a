//! A configuration with what it names: releases opened, keys read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use overseer::{FleetName, Release, ReleaseId};
use overseer_protocol::error_text;
use overseer_release::{PublicKey, Trust, Unsigned};

use super::fleet::ReleasePlace;
use super::{Config, FleetConfig, ServerConfig};
use crate::exit::Exit;
use crate::failure::Failure;

/// What a server can start from.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) server: ServerConfig,
    pub(crate) fleets: BTreeMap<FleetName, FleetPlan>,
}

impl Plan {
    /// Removes releases from URLs that this plan, which must be of the whole configuration, does not name
    /// and that nobody has used for long. Blocks on the disk.
    pub(crate) fn remove_unused_downloads(&self) {
        let named: BTreeSet<ReleaseId> =
            self.fleets.values().filter_map(|fleet| fleet.downloaded()).collect();
        let directory = downloads();
        if let Err(error) = Release::remove_unused(&directory, &named) {
            tracing::warn!(directory = %directory.display(), %error, "releases that nobody uses any more are left");
        }
    }
}

/// A fleet that can be started.
#[derive(Clone)]
pub(crate) struct FleetPlan {
    pub(crate) config: FleetConfig,
    pub(crate) release: Release,
    /// Trusted keys, hexadecimal.
    pub(crate) keys: Vec<String>,
}

impl FleetPlan {
    /// Name and version of the release.
    pub(crate) fn release_name(&self) -> String {
        let manifest = self.release.manifest();
        format!("{} {}", manifest.name, manifest.version)
    }

    /// The id of its release, if that is from a URL.
    fn downloaded(&self) -> Option<ReleaseId> {
        match &self.config.release.value {
            ReleasePlace::File(_) => None,
            ReleasePlace::Url(_, id) => Some(*id),
        }
    }

    /// The keys of the configuration, but `labors`, that another plan for the fleet changes.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = self.config.differences(&other.config);
        // The same path may be another release by now.
        if self.release.id() != other.release.id() && !keys.contains(&"release") {
            keys.push("release");
        }
        keys
    }
}

/// When a release from a URL is fetched that is not here yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// Now, for as long as that takes.
    Now,
    /// Not now: its fleet cannot be planned yet, for [`FETCHING`].
    Later,
}

/// Code of a fleet whose release is still on its way.
pub(crate) const FETCHING: &str = "release.fetching";

impl Config {
    /// Opens releases and reads keys. Blocks on the disk, and on the network for a release from a URL.
    ///
    /// # Errors
    /// A release that is not there, is none, or would be refused by the labors; a key that is
    /// none. Each with its place in the configuration.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        match self.plan_what_can_be(Fetch::Now)? {
            (plan, faults) if faults.is_empty() => Ok(plan),
            (_, mut faults) => Err(faults.swap_remove(0).1),
        }
    }

    /// As [`Config::plan`], without the fleets that cannot be planned, and why each cannot.
    ///
    /// # Errors
    /// No fleet can be planned.
    pub(crate) fn plan_what_can_be(
        &self,
        fetch: Fetch,
    ) -> Result<(Plan, Vec<(FleetName, Failure)>), Failure> {
        let (mut fleets, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, fleet) in &self.fleets {
            match self.fleet(fleet, fetch) {
                Ok(plan) => drop(fleets.insert(name.clone(), plan)),
                Err(failure) => faults.push((name.clone(), failure)),
            }
        }
        if fleets.is_empty() && !faults.is_empty() {
            return Err(faults.remove(0).1);
        }
        Ok((Plan { server: self.server.clone(), fleets }, faults))
    }

    fn fleet(&self, fleet: &FleetConfig, fetch: Fetch) -> Result<FleetPlan, Failure> {
        let key = |key: &str| format!("fleets.{}.{key}", fleet.name);
        let mut keys = Vec::new();
        for trusted in &fleet.trust {
            let read = public_key(&self.base, &trusted.value);
            keys.push(read.map_err(|f| self.source.placed(f, &trusted.span, Some(&key("trust"))))?);
        }
        let (place, span) = (&fleet.release.value, &fleet.release.span);
        let wrong = |code: &'static str, text: String, help: &str| {
            let failure = Failure::told(Exit::BadInput, code, &text).or_help(help);
            self.source.placed(failure, span, Some(&key("release")))
        };
        let packed = "give the path of a file that `overseer release pack` has made";
        let release = match place {
            ReleasePlace::File(path) => {
                Release::open(path).map_err(|e| wrong(e.code(), error_text(&e), packed))?
            }
            ReleasePlace::Url(url, id) => {
                let directory = downloads();
                if fetch == Fetch::Later && !Release::fetched(*id, &directory).is_file() {
                    let message = format!("its release is being fetched from {url}");
                    return Err(Failure::fault(FETCHING, message).help("it starts by itself then"));
                }
                tracing::info!(fleet = %fleet.name, url, "the release is fetched, unless it was before");
                Release::fetch(url, *id, &directory).map_err(|e| wrong(e.code(), error_text(&e), packed))?
            }
        };
        let mut trust = Trust::keys(keys.clone());
        if fleet.unsigned {
            trust.unsigned = Unsigned::Allow;
        }
        release.verify(&trust).map_err(|refused| {
            let message = format!("labors would refuse {place}: {refused}");
            let help = "name the key that signed it in `trust`, or state unsigned = \"allow\"";
            wrong(refused.code(), message, help)
        })?;
        let keys = keys.into_iter().map(PublicKey::to_text).collect();
        Ok(FleetPlan { config: fleet.clone(), release, keys })
    }
}

/// Where releases from a URL are kept.
fn downloads() -> PathBuf {
    overseer::cache_directory().unwrap_or_else(|| std::env::temp_dir().join("overseer")).join("downloads")
}

/// A key by its file, relative to `base`, or by its text.
fn public_key(base: &Path, text: &str) -> Result<PublicKey, Failure> {
    let path = base.join(text);
    if path.exists() {
        return PublicKey::read(&path).map_err(|error| {
            Failure::told(Exit::BadInput, error.code(), &error_text(&error))
                .or_help("name a .pub file that `overseer release keygen` has made")
        });
    }
    text.parse().map_err(|_| {
        let digits = text.chars().all(|c| c.is_ascii_hexdigit());
        let message = match digits {
            true => format!("{text:?} is not the text of a public key, which has 64 hexadecimal digits"),
            false => format!("the public key {} is missing: there is no such file", path.display()),
        };
        Failure::input("release.key_not_public", message).help(
            "give the path of a .pub file that `overseer release keygen` has made, relative to this file, or \
             its 64 hexadecimal digits",
        )
    })
}
