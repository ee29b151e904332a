//! Labors whose disk is full.

use std::time::Duration;

use overseer::release::ReleaseBuilder;
use overseer::{Backoff, BootPhase, Cause, ControlPlane, LaborState, Release};
use overseer_tests::small_disk::SmallDisk;
use overseer_tests::{TestFleet, probe_library, probes, processes, within};

const RESTARTS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_labor_whose_release_does_not_fit_on_its_disk_says_so_and_is_given_up_with_patience() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk"), 64 << 10) else { return };
    // Labors of this machine have their directories in that of their Overseer.
    let plane = ControlPlane::builder().data_directory(disk.path().join("data")).start().await.unwrap();
    let large = directory.path().join("large");
    std::fs::write(&large, vec![7; 8 << 20]).unwrap();
    let release = ReleaseBuilder::plugin("probe-plugin", "1.0.0", probe_library()).file("large", large);
    let fleet = probes!().release(Release::pack(release).unwrap());
    let fleet = fleet.control_plane(&plane).intensity(RESTARTS, Duration::from_secs(600));
    let fleet = fleet.backoff(Backoff { initial: FIRST_WAIT, ..Backoff::default() });
    let fleet = TestFleet::start(fleet).await;
    // More than the store needs, less than the release.
    disk.fill(3000);
    let labor = fleet.start_child().await.unwrap();
    let end = within("it is given up", labor.terminated()).await;
    let Cause::Policy { .. } = &end else { panic!("{end:?}") };
    for part in ["loading", disk.path().to_str().unwrap(), "No space left on device", "check space"] {
        assert!(end.to_string().contains(part), "{part}: {end}");
    }
    let history = labor.history();
    let ends: Vec<_> = history.iter().filter(|entry| entry.state == LaborState::Backoff).collect();
    assert_eq!(ends.len(), RESTARTS as usize, "{history:#?}");
    for (number, end) in (0u32..).zip(ends) {
        let Some(Cause::BootFailed { phase: BootPhase::Load, reason }) = &end.cause else {
            panic!("{end:?}")
        };
        assert!(reason.contains("No space left on device"), "{reason}");
        // The first time at once, then at most twice as long each time, and at least half of that.
        let Some(doubled) = number.checked_sub(1) else { continue };
        let life = end.generation.0 + 1;
        let next = history.iter().find(|later| later.generation.0 == life).unwrap();
        // The clock counts milliseconds.
        let waited = Duration::from_millis(next.at_ms - end.at_ms + 10);
        assert!(waited >= FIRST_WAIT * 2u32.pow(doubled) / 2, "{number}: {waited:?}");
    }
    assert_eq!(processes::of(fleet.name()), []);
    let left = std::fs::read_dir(disk.path().join("data/labors")).unwrap();
    assert_eq!(left.count(), 0, "directories of labors");
    // The fleet is as good as before, once there is room.
    disk.make_room();
    let labor = fleet.start_child().await.unwrap();
    within("a labor gets ready", labor.ready()).await.unwrap();
    assert_eq!(labor.call::<_, u32>("echo", &7).await.unwrap(), 7);
    fleet.end().await;
    within("the shutdown", plane.shutdown()).await;
}
