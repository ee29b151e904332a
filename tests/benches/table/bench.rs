//! What all benches share: a control plane, releases, fleets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use overseer::release::ReleaseBuilder;
use overseer::{Adapter, BoxError, ControlPlane, Fleet, FleetBuilder, Labor, Quiet, Release, ReleaseCache};
use overseer_tests::own_plane::noise;

const MIB: usize = 1024 * 1024;

pub(crate) struct Bench {
    pub(crate) plane: ControlPlane,
    directory: tempfile::TempDir,
    /// The plugin and random bytes, 1 MiB in all.
    release: Release,
    fleets: AtomicUsize,
}

impl Bench {
    pub(crate) async fn open() -> Result<Self, BoxError> {
        let directory = tempfile::tempdir()?;
        let library = overseer::release::library_beside_program("probe_plugin")?;
        let rest = MIB.saturating_sub(std::fs::metadata(library)?.len() as usize);
        let release = release(directory.path(), "small", &noise("small", rest))?;
        let plane = ControlPlane::builder().listen(([127, 0, 0, 1], 0).into()).start().await?;
        Ok(Self { plane, directory, release, fleets: AtomicUsize::new(0) })
    }

    pub(crate) async fn close(self) {
        self.plane.shutdown().await;
    }

    /// A directory for sockets and files, gone with the bench.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The same, with what its labors keep of releases.
    pub(crate) async fn fleet_with(
        &self,
        adapter: impl Adapter,
        cache: ReleaseCache,
    ) -> Result<Fleet, BoxError> {
        Ok(self.builder(adapter, self.release.clone()).release_cache(cache).start().await?)
    }

    /// A fleet of the 1 MiB release with the library's defaults.
    pub(crate) async fn fleet(&self, adapter: impl Adapter) -> Result<Fleet, BoxError> {
        Ok(self.small(adapter).start().await?)
    }

    /// One of the 1 MiB release that is not started yet.
    pub(crate) fn small(&self, adapter: impl Adapter) -> FleetBuilder<Quiet> {
        self.builder(adapter, self.release.clone())
    }

    pub(crate) fn builder(&self, adapter: impl Adapter, release: Release) -> FleetBuilder<Quiet> {
        let number = self.fleets.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{number}");
        // In the bench's own cache: that of the user has had these releases by an earlier run.
        let cache = ReleaseCache::at(self.directory.path().join("cache"));
        let fleet = Fleet::quiet().name(name).adapter(adapter).release(release);
        fleet.release_cache(cache).control_plane(&self.plane)
    }

    /// The plugin with so many random bytes beside it.
    pub(crate) fn release_with(&self, name: &str, bytes: usize) -> Result<Release, BoxError> {
        release(self.directory.path(), name, &noise(name, bytes))
    }

    /// As [`Bench::release_with`], with so many bytes in the middle that are others.
    pub(crate) fn release_changed(
        &self,
        name: &str,
        bytes: usize,
        changed: usize,
    ) -> Result<Release, BoxError> {
        let mut all = noise(name, bytes);
        let middle = bytes / 2;
        all[middle..middle + changed].copy_from_slice(&noise("changed", changed));
        release(self.directory.path(), &format!("{name}-changed"), &all)
    }
}

/// Starts labors and waits until all are ready.
pub(crate) async fn ready(fleet: &Fleet, labors: usize) -> Result<Vec<Labor>, BoxError> {
    let labors = fleet.start_children(labors).await?;
    for labor in &labors {
        labor.ready().await?;
    }
    Ok(labors)
}

fn release(directory: &Path, name: &str, random: &[u8]) -> Result<Release, BoxError> {
    let library = overseer::release::library_beside_program("probe_plugin")?;
    let file: PathBuf = directory.join(name);
    std::fs::write(&file, random)?;
    let builder = ReleaseBuilder::plugin("probe-plugin", "1.0.0", library).file("random", file);
    Ok(Release::pack(builder)?)
}
