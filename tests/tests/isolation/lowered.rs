//! Agents that are not root: what they cannot have, and what they keep to themselves all the same.

use std::path::PathBuf;

use overseer::local::Local;
use overseer::{Cause, ControlPlane, Isolation, Restart};
use overseer_tests::processes::Role;
use overseer_tests::{TestFleet, builder, labor, parts, processes, within};
use tempfile::TempDir;

use crate::user::{open, secrets_of};
use crate::{Ends, MIB, NOBODY, ask, goes_on, none, provoke};

/// A control plane whose labors run as nobody, who may join groups that others have made, but make none.
struct Lowered {
    plane: ControlPlane,
    program: PathBuf,
    directory: TempDir,
}

impl Lowered {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), 0o755);
        let [agent, data, program] = ["agent", "data", "program"].map(|name| directory.path().join(name));
        std::fs::copy(labor!(), &agent).unwrap();
        let (agent, place) = (agent.display(), data.display());
        let text = format!(
            "#!/bin/sh\nset -e\nchmod 711 {place} \"$OVERSEER_NODE_DIRECTORY/..\"\n\
             chmod 666 {place}/labors.sock\nchown -R {NOBODY} \"$OVERSEER_NODE_DIRECTORY\"\n\
             exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {agent} \"$@\"\n"
        );
        std::fs::write(&program, text).unwrap();
        open(&program, 0o755);
        let plane = ControlPlane::builder().data_directory(&data).start().await.unwrap();
        Self { plane, program, directory }
    }

    fn fleet(&self, ends: &Ends) -> overseer_tests::Built<Ends> {
        builder(ends.clone(), Local::with_program(&self.program)).control_plane(&self.plane)
    }

    /// What agents have logged by now.
    fn logged(&self) -> String {
        let labors = std::fs::read_dir(self.directory.path().join("data/labors")).unwrap();
        let logs = labors.flatten().map(|labor| labor.path().join("agent.log"));
        logs.map(|log| std::fs::read_to_string(log).unwrap_or_default()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_an_agent_is_closed_also_to_plugins_of_its_own_user() {
    if !parts::has_root() {
        return;
    }
    let lowered = Lowered::start().await;
    let (fleet, labor) = TestFleet::with_one(lowered.fleet(&Ends::default())).await;
    let agent = processes::one(fleet.name(), labor.id(), Role::Agent).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");
    assert_eq!(ask::<(u32, u32, usize, bool)>(&labor, "identity", &()).await, (NOBODY, NOBODY, 0, false));
    for (path, error) in secrets_of(agent, &labor).await {
        assert!(error.is_some(), "{}", path.display());
    }
    assert!(ask::<Option<String>>(&labor, "take_descriptor", &agent).await.is_some());
    // Of its own it sees all, so it is not for another reason.
    let host: i32 = ask(&labor, "pid", &()).await;
    assert!(secrets_of(host, &labor).await.values().all(Option::is_none));
    assert_eq!(ask::<Option<String>>(&labor, "take_descriptor", &host).await, None);
    // The agent reads for its plugin, and not what says of the agent.
    for (path, why) in [("/proc/self/environ", "denied"), ("/proc/self/status", "of /proc")] {
        let put = labor.call::<_, (String, u64)>("put_blob", &path).await.unwrap_err().to_string();
        assert!(put.contains(why), "{put}");
    }
    fleet.end().await;
    lowered.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_groups_what_is_allocated_beyond_is_refused_and_that_is_said_once() {
    if !parts::has_root() {
        return;
    }
    let (lowered, ends) = (Lowered::start().await, Ends::default());
    let isolation = Isolation { memory: Some(64 * MIB), processes: Some(64), ..none() };
    let (fleet, labor) = TestFleet::with_one(lowered.fleet(&ends).isolation(isolation)).await;
    let before: u32 = ask(&labor, "pid", &()).await;
    provoke(&labor, "allocate").await;
    // What a program does without memory is up to it: one of Rust aborts.
    assert_eq!(ends.count(1).await, [Cause::Signal { signal: 6 }]);
    goes_on(&labor, before).await;
    let logged = lowered.logged();
    let said = |key: &str| logged.matches(&format!("plugin hosts have no limit of {key}")).count();
    assert_eq!((said("memory; each process"), said("processes"), said("cpu")), (1, 1, 0), "{logged}");
    assert!(logged.contains("run the agent as root"), "{logged}");
    fleet.end().await;
    lowered.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_required_and_cannot_be_had_lets_no_host_start() {
    if !parts::has_root() {
        return;
    }
    let lowered = Lowered::start().await;
    let user = Isolation { user: Some("daemon".parse().unwrap()), ..none() };
    let memory = Isolation { memory: Some(64 * MIB), required: true, ..none() };
    for (isolation, said) in [
        (user, "only an agent that is root can run a host as user daemon"),
        (memory, "requires a limit of memory"),
    ] {
        let fleet = lowered.fleet(&Ends::default()).isolation(isolation).restart(Restart::Temporary);
        let fleet = TestFleet::start(fleet).await;
        let labor = fleet.start_child().await.unwrap();
        let cause = within("end", labor.terminated()).await;
        let Cause::BootFailed { reason, .. } = &cause else { panic!("{cause}") };
        assert!(reason.contains(said), "{reason}");
        fleet.end().await;
    }
    lowered.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_starts_with_the_least_of_everything_that_can_be_had() {
    if !parts::has_root() {
        return;
    }
    let lowered = Lowered::start().await;
    let fleet = lowered.fleet(&Ends::default()).isolation(crate::limits::least());
    let (fleet, labor) = TestFleet::with_one(fleet).await;
    assert_eq!(ask::<u32>(&labor, "echo", &1).await, 1);
    fleet.end().await;
    lowered.plane.shutdown().await;
}
