use std::ops::Deref;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use overseer::release::library_beside_program;
use overseer::{Adapter, Fleet, FleetBuilder, Labor, Overseer, Quiet, Release, ReleaseCache};

use crate::patience::{eventually, within};
use crate::processes;

/// The probe's library.
pub fn probe_library() -> PathBuf {
    library_beside_program("probe_plugin").expect("cargo has built the probe with the tests")
}

/// The probe as a release, packed once.
pub fn probe() -> Release {
    static PROBE: OnceLock<Release> = OnceLock::new();
    let pack = || Release::plugin_beside_program("probe_plugin", "1.0.0").expect("the probe is packed");
    PROBE.get_or_init(pack).clone()
}

/// What [`builder`] gives.
pub type Built<H> = FleetBuilder<H>;

/// A fleet of the probe under a name that no other test has.
pub fn builder<H: Overseer>(handler: H, adapter: impl Adapter) -> Built<H> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("test-{}-{number}", std::process::id());
    Fleet::builder(handler).name(name).adapter(adapter).release(probe()).release_cache(release_cache())
}

/// What the labors of all tests keep of releases, beside the tests and not in the user's own cache.
fn release_cache() -> ReleaseCache {
    let tests = std::env::current_exe().expect("a test has a program");
    ReleaseCache::at(tests.with_file_name("test-releases"))
}

/// A fleet that must leave nothing behind. Ends by [`TestFleet::end`].
pub struct TestFleet<H: Overseer = Quiet> {
    fleet: Fleet<H>,
    ended: bool,
}

impl<H: Overseer> TestFleet<H> {
    /// Starts it.
    pub async fn start(builder: FleetBuilder<H>) -> Self {
        Self { fleet: builder.start().await.expect("the fleet starts"), ended: false }
    }

    /// Starts it with so many labors, and waits until they are ready.
    pub async fn with(builder: FleetBuilder<H>, labors: usize) -> (Self, Vec<Labor>) {
        let fleet = Self::start(builder).await;
        let labors = fleet.start_children(labors).await.expect("there is room");
        for labor in &labors {
            within("a labor gets ready", labor.ready()).await.expect("a labor gets ready");
        }
        (fleet, labors)
    }

    /// Starts it with one labor, and waits until it is ready.
    pub async fn with_one(builder: FleetBuilder<H>) -> (Self, Labor) {
        let (fleet, mut labors) = Self::with(builder, 1).await;
        (fleet, labors.pop().expect("one was started"))
    }

    /// Stops the fleet. When that returns, no process of it is left.
    pub async fn end(mut self) {
        self.ended = true;
        within("the fleet stops", self.fleet.stop()).await;
        assert_eq!(processes::of(self.fleet.name()), [], "processes are left");
    }

    /// For a fleet that stops by itself: waits until no process of it is left.
    pub async fn ends_by_itself(mut self) {
        self.ended = true;
        let name = self.fleet.name().clone();
        eventually("no process is left", async || processes::of(&name).is_empty().then_some(())).await;
    }
}

impl<H: Overseer> Deref for TestFleet<H> {
    type Target = Fleet<H>;

    fn deref(&self) -> &Fleet<H> {
        &self.fleet
    }
}

impl<H: Overseer> Drop for TestFleet<H> {
    fn drop(&mut self) {
        // A test that fails anyway has its own message.
        assert!(self.ended || std::thread::panicking(), "a test must end its fleet");
    }
}
