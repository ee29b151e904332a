//! The releases that the fleets of a control plane run, each in a file of the control plane's own:
//! what somebody writes to the file that a release was opened from does not reach a running fleet.
//!
//! Such a file is in the data directory and has no name. So nobody else writes to it, and it is gone
//! with the last fleet that runs it, or with the process, however that ends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use overseer_protocol::ReleaseId;
use overseer_release::{Package, PackageError};
use tokio::sync::Mutex;

use super::Release;
use crate::condition::takes_nothing;

/// See the module.
pub(crate) struct KeptReleases {
    directory: PathBuf,
    /// By id; fleets that run the same release share its file. Held while one is copied.
    kept: Mutex<HashMap<ReleaseId, Weak<Package>>>,
}

impl KeptReleases {
    /// Releases in files of this directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), kept: Mutex::default() }
    }

    /// The same release out of a file of ours; as it is where it is in one already, or where the disk
    /// takes nothing: what runs goes on without room, too.
    ///
    /// # Errors
    /// `release.changed` if its file is not what it was when it was opened; `release.package_io`.
    pub(crate) async fn keep(&self, release: &Release) -> Result<Release, PackageError> {
        if release.directory.is_some() {
            return Ok(release.clone());
        }
        let mut kept = self.kept.lock().await;
        kept.retain(|_, package| package.strong_count() > 0);
        let there = kept.get(&release.id()).and_then(Weak::upgrade);
        // One id may be signed by several.
        if let Some(package) = there.filter(|there| there.signatures() == release.package.signatures()) {
            return Ok(Release { package, ..release.clone() });
        }
        let (package, directory) = (release.package(), self.directory.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let io = |source| PackageError::Io { path: directory.clone(), source };
            let file = tempfile::tempfile_in(&directory).map_err(io)?;
            package.copy_to(file, &directory)
        });
        let copied = copied.await.unwrap_or_else(|panicked| {
            Err(PackageError::Io { path: self.directory.clone(), source: std::io::Error::other(panicked) })
        });
        match copied {
            Ok(package) => {
                let package = Arc::new(package);
                kept.insert(release.id(), Arc::downgrade(&package));
                Ok(Release { package, ..release.clone() })
            }
            Err(PackageError::Io { path, source }) if takes_nothing(&source) => {
                let (release_id, directory) = (release.id(), path.display());
                tracing::warn!(release = %release_id, %directory, error = %source, "a release is run from the file that was given: do not write to it");
                Ok(release.clone())
            }
            Err(error) => Err(error),
        }
    }
}
