//! A plugin host of a user of its own, and what of the agent's is closed to it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use overseer::release::{Release, ReleaseBuilder};
use overseer::{Cause, ControlPlane, Isolation, Labor, Restart};
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, eventually, parts, probes, processes, within};

use crate::{NOBODY, ask, nobody, none};

/// Paths, and why each could not be looked at.
async fn look(labor: &Labor, paths: &[PathBuf]) -> BTreeMap<PathBuf, Option<String>> {
    ask(labor, "look", &paths).await
}

/// Whatever is below a directory.
fn all_below(directory: &Path, found: &mut Vec<PathBuf>) {
    found.push(directory.to_owned());
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => all_below(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_to_its_release_and_its_directory_and_to_nothing_of_the_agent() {
    if !parts::has_root() {
        return;
    }
    let isolation = Isolation { user: nobody(), ..none() };
    let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
    let who: (u32, u32, usize, bool) = ask(&labor, "identity", &()).await;
    assert_eq!(who, (NOBODY, NOBODY, 0, true));
    let environment: BTreeMap<String, String> = ask(&labor, "env", &()).await;
    let (directory, _): (PathBuf, PathBuf) = ask(&labor, "directory", &()).await;
    assert_eq!(Path::new(&environment["HOME"]), directory);
    assert_eq!(ask::<u64>(&labor, "write", &(directory.join("own"), 10)).await, 10);

    // The log of the host makes the agent have a spool.
    let node = directory.parent().unwrap();
    let plane = node.parent().unwrap().parent().unwrap();
    let mut all = Vec::new();
    all_below(plane, &mut all);
    let is_its_own = |path: &Path| {
        let release = node.join("releases");
        path.starts_with(&directory)
            || (path.starts_with(&release) && path.parent() != Some(&release) && path != release)
            || (path.parent() == Some(&release) && path.is_dir())
    };
    let looked = look(&labor, &all).await;
    for (path, error) in &looked {
        assert_eq!(error.is_none(), is_its_own(path), "{}: {error:?}", path.display());
    }
    let closed = |name: &str| looked.keys().any(|path| path.ends_with(name) && !is_its_own(path));
    assert!(closed("agent.log") && closed("store.redb") && closed("releases"), "{looked:?}");

    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    for (path, error) in secrets_of(agent, &labor).await {
        assert!(error.is_some(), "{}", path.display());
    }
    assert!(ask::<Option<String>>(&labor, "take_descriptor", &agent).await.is_some());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_lends_it_no_rights_for_blobs() {
    if !parts::has_root() {
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    let isolation = Isolation { user: nobody(), ..none() };
    let (fleet, labor) = TestFleet::with_one(probes!().isolation(isolation)).await;
    let (directory, _): (PathBuf, PathBuf) = ask(&labor, "directory", &()).await;
    let own = directory.join("own");
    ask::<u64>(&labor, "write", &(&own, 1000)).await;
    let (digest, size): (String, u64) = ask(&labor, "put_blob", &own).await;
    assert_eq!(size, 1000);
    assert_eq!(ask::<u64>(&labor, "get_blob", &(&digest, directory.join("copy"))).await, 1000);
    for path in [secret.path(), Path::new("/proc/self/environ"), Path::new("/proc/self/status")] {
        let put = labor.call::<_, (String, u64)>("put_blob", &path).await.unwrap_err().to_string();
        assert!(put.contains("denied") || put.contains("of /proc"), "{put}");
    }
    let into = Path::new("/var/lib/overseer-test-blob");
    let got = labor.call::<_, u64>("get_blob", &(&digest, into)).await.unwrap_err().to_string();
    assert!(got.contains("denied") && !into.exists(), "{got}");
    fleet.end().await;
}

/// What tells of a process, and why a plugin could not look at each.
pub(crate) async fn secrets_of(pid: i32, labor: &Labor) -> BTreeMap<PathBuf, Option<String>> {
    let paths = ["mem", "environ", "maps", "fd"].map(|what| PathBuf::from(format!("/proc/{pid}/{what}")));
    look(labor, &paths).await
}

pub(crate) fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn script(directory: &Path, text: &str) -> Release {
    let path = directory.join("job.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    open(&path, 0o755);
    Release::pack(ReleaseBuilder::program("job", "1.0.0", path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_watched_is_of_the_user_and_prints_as_ever() {
    if !parts::has_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let text = "echo out > /dev/stdout && echo err > /dev/stderr && id -u > who && exec sleep 3600";
    let isolation = Isolation { user: nobody(), core: Some(0), ..none() };
    let fleet = probes!().release(script(scratch.path(), text)).isolation(isolation);
    let (fleet, labor) = TestFleet::with_one(fleet).await;
    let program =
        eventually("the program runs", async || processes::one(fleet.name(), labor.id(), Role::Other)).await;
    let who = std::fs::read_link(format!("/proc/{program}/cwd")).unwrap().join("who");
    let said = eventually("it says who it is", async || {
        std::fs::read_to_string(&who).ok().filter(|s| s.ends_with('\n'))
    });
    assert_eq!(said.await.trim(), NOBODY.to_string());
    // It goes with its agent, also when that is killed.
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    processes::signal(agent, rustix::process::Signal::KILL);
    eventually("the program is gone", async || (!processes::lives(program)).then_some(())).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_not_there_or_cannot_pass_is_said_by_name() {
    if !parts::has_root() {
        return;
    }
    let isolation = Isolation { user: Some("no-such-user".parse().unwrap()), ..none() };
    let fleet = TestFleet::start(probes!().isolation(isolation).restart(Restart::Temporary)).await;
    let labor = fleet.start_child().await.unwrap();
    let Cause::BootFailed { reason, .. } = within("end", labor.terminated()).await else { panic!("it runs") };
    assert!(reason.contains("no user no-such-user is in /etc/passwd"), "{reason}");
    fleet.end().await;

    // A directory above is not the control plane's to open.
    let closed = tempfile::tempdir().unwrap();
    open(closed.path(), 0o700);
    let plane = ControlPlane::builder().data_directory(closed.path().join("plane")).start().await.unwrap();
    let isolation = Isolation { user: nobody(), ..none() };
    let fleet = probes!().isolation(isolation).restart(Restart::Temporary).control_plane(&plane);
    let fleet = TestFleet::start(fleet).await;
    let labor = fleet.start_child().await.unwrap();
    let Cause::BootFailed { reason, .. } = within("end", labor.terminated()).await else { panic!("it runs") };
    let place = format!("does not get to {}", closed.path().display());
    assert!(reason.contains(&place) && reason.contains("chmod o+x"), "{reason}");
    fleet.end().await;
    plane.shutdown().await;
}
