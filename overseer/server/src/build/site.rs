//! The machinery of one build: an embedded Overseer with labors on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overseer::local::Local;
use overseer::{ControlPlane, Deadlines, Fleet, Labor, Restart};

use super::builder_release::{self, Packed};
use crate::failure::Failure;

/// How long a labor's plugin may take to stop. What it runs has been cancelled before.
const STOP: Duration = Duration::from_secs(2);
/// How long all of it may take to stop.
const STOP_ALL: Duration = Duration::from_secs(10);

/// How long the Overseer may be unable to start a labor, for want of space or of files.
const PATIENCE: Duration = Duration::from_secs(10);

/// An Overseer and its fleet of builders.
pub(super) struct Site {
    pub(super) plane: ControlPlane,
    pub(super) fleet: Fleet,
}

impl Site {
    /// Starts an Overseer, without any labor yet.
    ///
    /// # Errors
    /// No release, no room, no socket.
    pub(super) async fn start(nodes: usize, cache: &Path) -> Result<Self, Failure> {
        let cache = cache.to_owned();
        let release = tokio::task::spawn_blocking(move || builder_release::pack(&cache));
        let plane = ControlPlane::embedded();
        let (release, plane) = tokio::join!(release, plane);
        let plane =
            plane.map_err(|e| Failure::fault("build.start", format!("the Overseer did not start: {e}")))?;
        let packed = release
            .unwrap_or_else(|e| Err(Failure::fault("build.release", format!("packing the builder: {e}"))));
        let fleet = match packed {
            Ok(packed) => Self::fleet(&plane, packed, nodes).await,
            Err(failure) => Err(failure),
        };
        match fleet {
            Ok(fleet) => Ok(Self { plane, fleet }),
            Err(failure) => {
                // Nobody else knows of its temporary directory.
                plane.shutdown().await;
                Err(failure)
            }
        }
    }

    async fn fleet(plane: &ControlPlane, packed: Packed, nodes: usize) -> Result<Fleet, Failure> {
        let mut builder = Fleet::quiet()
            .name("build")
            .adapter(Local::new())
            .control_plane(plane)
            .max_nodes(nodes)
            .restart(Restart::Permanent)
            .intensity(5, Duration::from_secs(60))
            .deadlines(Deadlines { stop: STOP, ..Deadlines::default() })
            .trust(packed.key)
            .release(packed.release);
        for name in overseer_builder::INHERITED {
            if let Ok(value) = std::env::var(name) {
                builder = builder.environment(name, value);
            }
        }
        builder
            .start()
            .await
            .map_err(|e| Failure::fault("build.start", format!("the fleet did not start: {e}")))
    }

    /// Ends every labor and the Overseer. What does not end in time ends with this process.
    pub(super) async fn stop(self) {
        let stop = async {
            self.fleet.stop().await;
            self.plane.shutdown().await;
        };
        if tokio::time::timeout(STOP_ALL, stop).await.is_err() {
            tracing::warn!("the labors did not end in time; they end with this process");
        }
    }
}

/// Waits until a labor takes calls.
///
/// # Errors
/// `build.no_labor`: it has ended for good, or cannot be started.
pub(super) async fn usable(plane: &ControlPlane, labor: &Labor) -> Result<(), Failure> {
    let condition = plane.condition();
    tokio::select! {
        ready = labor.ready() => ready.map_err(|ended| no_labor(&ended.cause.to_string())),
        trouble = condition.paused_for(PATIENCE) => Err(no_labor(&trouble.to_string()).help(trouble.help())),
    }
}

/// Why no job can run.
pub(super) fn no_labor(why: &str) -> Failure {
    Failure::fault("build.no_labor", format!("no labor can be had: {why}"))
        .help("`overseer doctor` says what is missing on this machine, -v shows what the labors did; if it is space, set TMPDIR to a directory with more")
}

/// The directory that survives from build to build: see [`overseer::cache_directory`].
///
/// # Errors
/// There is none.
pub(crate) fn cache_directory() -> Result<PathBuf, Failure> {
    overseer::cache_directory().ok_or_else(|| {
        Failure::input("build.cache", "there is no place for the cache: none of OVERSEER_CACHE, XDG_CACHE_HOME and HOME is an absolute path")
            .help("set OVERSEER_CACHE to a directory that can be written")
    })
}
