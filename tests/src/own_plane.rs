//! A control plane with directories of its own, for tests of what releases and caches leave there.

use std::path::PathBuf;

use overseer::{Adapter, ControlPlane, Labor, LaborId, Quiet, Release, ReleaseCache};
use tempfile::TempDir;

use crate::{TestFleet, builder};

/// See the module.
pub struct OwnPlane {
    /// It keeps its state in `data` of the directory.
    pub plane: ControlPlane,
    /// Gone with this.
    pub directory: TempDir,
}

impl OwnPlane {
    /// Starts one.
    pub async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let plane = ControlPlane::builder().data_directory(data).start().await.unwrap();
        Self { plane, directory }
    }

    /// Something in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A fleet of the release with one labor that is ready.
    pub async fn one(
        &self,
        adapter: impl Adapter,
        release: Release,
        cache: ReleaseCache,
    ) -> (TestFleet, Labor) {
        let builder = builder(Quiet, adapter).control_plane(&self.plane);
        TestFleet::with_one(builder.release(release).release_cache(cache)).await
    }

    /// What a labor has logged in its first life.
    pub fn log(&self, labor: LaborId) -> String {
        let file = self.path("data/labors").join(format!("{labor}-1/agent.log"));
        std::fs::read_to_string(file).unwrap()
    }
}

/// Bytes that cannot be compressed, the same for the same seed.
pub fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut noise);
    noise
}
