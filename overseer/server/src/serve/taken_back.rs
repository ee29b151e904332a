//! Releases that fleets were to change to and do not run, remembered over the life of a server, each with
//! the release that the fleet ran before: no server that is started again runs such a one on all labors.
//!
//! That a release is tried is stored before any labor is told of it, and what the fleet ran until then is
//! kept in a file; both go when the fleet runs the new one, or is to run yet another.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use overseer::keyspace::{Kind, Value};
use overseer::store::{Entry, Pages, StoreError, Transaction};
use overseer::{Cause, ControlPlane, FleetName, Release, ReleaseId};
use overseer_protocol::error_text;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::exit::Exit;
use crate::failure::Failure;

/// Below the data directory: what fleets ran before, as `ID.release`.
const DIRECTORY: &str = "releases";

/// JSON under `taken-back/FLEET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenBack {
    /// What was tried.
    pub(crate) release: ReleaseId,
    /// What the fleet ran before, and runs again.
    pub(crate) before: ReleaseId,
    /// Why it was taken back; none while it is tried, and where nobody has seen the end of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<Cause>,
}

/// For a check of the store.
pub(crate) const KIND: Kind = Kind {
    name: "releases that were taken back",
    prefix: "taken-back/",
    form: "taken-back/FLEET",
    value: "JSON: what was tried, what ran before, why it was taken back",
    read: read_stored,
};

fn read_stored(entry: &Entry) -> Result<Value, String> {
    fleet_of(&entry.key)?;
    serde_json::from_slice::<TakenBack>(&entry.value).map(|_| Value::Alone).map_err(|e| e.to_string())
}

fn fleet_of(key: &str) -> Result<FleetName, String> {
    let fleet = key.strip_prefix(KIND.prefix).unwrap_or_default();
    fleet.parse().map_err(|error: overseer_protocol::IdError| error.to_string())
}

fn key(fleet: &FleetName) -> String {
    format!("taken-back/{fleet}")
}

fn failed(error: &StoreError) -> Failure {
    Failure::told(Exit::Fault, error.code(), &error.to_string())
}

fn parse(entry: &Entry) -> Result<TakenBack, Failure> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let message = format!("`{}` in the store cannot be read: {error}", entry.key);
        Failure::fault("serve.taken_back", message)
            .help("it was written by another version of this program: run that one, and upgrade the fleet")
    })
}

/// Those of all fleets of a server, and the files.
pub(crate) struct TakenBackReleases {
    plane: ControlPlane,
    directory: PathBuf,
    /// A file and the record that names it change together.
    changing: Mutex<()>,
}

impl TakenBackReleases {
    /// Of the server with this data directory.
    pub(super) fn new(plane: ControlPlane, data: &Path) -> Self {
        Self { plane, directory: data.join(DIRECTORY), changing: Mutex::default() }
    }

    fn file(&self, release: ReleaseId) -> PathBuf {
        self.directory.join(format!("{release}.release"))
    }

    /// What is stored for a fleet.
    ///
    /// # Errors
    /// `store.…`; `serve.taken_back` where it cannot be understood.
    pub(super) async fn of(&self, fleet: &FleetName) -> Result<Option<TakenBack>, Failure> {
        let entry = self.plane.store().get(&key(fleet)).await.map_err(|error| failed(&error))?;
        entry.as_ref().map(parse).transpose()
    }

    /// Remembers that a fleet which runs `before` tries another release, and keeps `before`.
    ///
    /// # Errors
    /// `store.…`; `release.not_kept` where there is no room for the file.
    pub(super) async fn tries(
        &self,
        fleet: &FleetName,
        release: ReleaseId,
        before: &Release,
    ) -> Result<TakenBack, Failure> {
        let _changing = self.changing.lock().await;
        let (directory, path, kept) = (self.directory.clone(), self.file(before.id()), before.clone());
        let saved = tokio::task::spawn_blocking(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|e| e.to_string())?;
            kept.save(&path).map_err(|error| error_text(&error))
        });
        let saved = saved.await.unwrap_or_else(|panicked| Err(panicked.to_string()));
        saved.map_err(|error| {
            let message = format!("what {fleet} runs cannot be kept, to go back to: {error}");
            Failure::fault("release.not_kept", message)
                .help("make room in the data directory, then try again")
        })?;
        let taken_back = TakenBack { release, before: before.id(), cause: None };
        self.put(fleet, &taken_back).await?;
        Ok(taken_back)
    }

    /// Remembers it as it is now; the file is there already.
    ///
    /// # Errors
    /// `store.…`.
    pub(super) async fn put(&self, fleet: &FleetName, taken_back: &TakenBack) -> Result<(), Failure> {
        // Our own types are always JSON.
        let value = serde_json::to_vec(taken_back).unwrap_or_default();
        let stored = self.plane.store().transact(Transaction::new().put(key(fleet), value)).await;
        stored.map(|_| ()).map_err(|error| failed(&error))
    }

    /// Forgets it, and removes files that no fleet needs then.
    ///
    /// # Errors
    /// `store.…`; nothing was forgotten then.
    pub(super) async fn forget(&self, fleet: &FleetName) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        let forgotten = self.plane.store().transact(Transaction::new().delete(key(fleet))).await;
        forgotten.map_err(|error| failed(&error))?;
        self.remove_unneeded().await;
        Ok(())
    }

    /// Forgets what is of no fleet of the configuration.
    pub(super) async fn retain(&self, configured: &BTreeSet<FleetName>) {
        let _changing = self.changing.lock().await;
        let Ok(all) = self.all().await else { return };
        for (fleet, _) in all.iter().filter(|(fleet, _)| !configured.contains(fleet)) {
            // What is left is looked at by the next server.
            let _ = self.plane.store().transact(Transaction::new().delete(key(fleet))).await;
        }
        self.remove_unneeded().await;
    }

    async fn all(&self) -> Result<Vec<(FleetName, TakenBack)>, Failure> {
        let mut pages = Pages::of(self.plane.store(), KIND.prefix);
        let mut all = Vec::new();
        while let Some(entries) = pages.page().await.map_err(|error| failed(&error))? {
            for entry in &entries {
                let fleet =
                    fleet_of(&entry.key).map_err(|error| Failure::fault("serve.taken_back", error))?;
                all.push((fleet, parse(entry)?));
            }
        }
        Ok(all)
    }

    /// Needs the turn. What cannot be found out removes nothing.
    async fn remove_unneeded(&self) {
        let Ok(all) = self.all().await else { return };
        let needed: BTreeSet<PathBuf> = all.iter().map(|(_, taken)| self.file(taken.before)).collect();
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || remove_but(&directory, &needed)).await;
        match removed.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(()) => {}
            Err(error) => {
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "releases that no fleet goes back to any more are left");
            }
        }
    }

    /// The release that a fleet ran before one was taken back, read to its end.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub(super) async fn before(&self, taken_back: &TakenBack) -> Result<Release, String> {
        let (path, id) = (self.file(taken_back.before), taken_back.before);
        let opened = tokio::task::spawn_blocking(move || {
            let inspected = overseer_release::inspect(&path).map_err(|error| error_text(&error))?;
            match inspected.id == id {
                true => Release::open(&path).map_err(|error| error_text(&error)),
                false => Err(format!("{} is another release", path.display())),
            }
        });
        opened.await.unwrap_or_else(|panicked| Err(panicked.to_string()))
    }
}

fn remove_but(directory: &Path, needed: &BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if !needed.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_keys_are_of_their_kind() {
        let web: FleetName = "web".parse().unwrap();
        assert!(key(&web).starts_with(KIND.prefix));
        assert_eq!(fleet_of(&key(&web)), Ok(web));
        assert!(fleet_of("taken-back/No Fleet").is_err());
    }

    #[test]
    fn the_stored_form_is_stable() {
        let [release, before] = [b"new", b"old"].map(|index| ReleaseId::of_index(index));
        let mut taken_back = TakenBack { release, before, cause: None };
        let stored = serde_json::to_string(&taken_back).unwrap();
        assert_eq!(stored, format!(r#"{{"release":"{release}","before":"{before}"}}"#));
        assert_eq!(serde_json::from_str::<TakenBack>(&stored).unwrap(), taken_back);
        taken_back.cause = Some(Cause::Signal { signal: 6 });
        let stored = serde_json::to_string(&taken_back).unwrap();
        assert!(stored.ends_with(r#""cause":{"kind":"signal","signal":6}}"#), "{stored}");
        assert_eq!(serde_json::from_str::<TakenBack>(&stored).unwrap(), taken_back);
    }

    #[test]
    fn only_files_that_are_needed_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a.release", "b.release", ".release-x"] {
            fs::write(path(name), "").unwrap();
        }
        remove_but(directory.path(), &[path("b.release")].into()).unwrap();
        let left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path("b.release")]);
        remove_but(&path("none"), &BTreeSet::new()).unwrap();
    }
}
