//! Hosts with limits, in each of their forms.

use std::path::PathBuf;
use std::sync::Arc;

use overseer_labor::host::{Confinement, HostKind};
use overseer_protocol::{Cause, Isolation};

use crate::harness::{probe, spec, start_failure, start_with};

fn files(most: u32) -> Isolation {
    Isolation { open_files: Some(most), core: Some(0), ..Isolation::default() }
}

fn served() -> HostKind {
    let executable = std::env::current_exe().unwrap();
    let args = ["--exact", "starts::serves_the_probe", "--ignored", "--nocapture"].map(String::from).to_vec();
    HostKind::Serve { executable, args }
}

fn confined(isolation: Isolation) -> Option<Arc<Confinement>> {
    Confinement::new(isolation).map(Arc::new)
}

#[tokio::test]
async fn a_plugin_and_a_program_that_serves_have_their_limits_before_they_run() {
    for what in [probe(), served()] {
        let (mut spec, directory) = spec(what, &[]);
        spec.confinement = confined(files(50));
        let mut host = start_with(spec, directory, 4096).await.unwrap();
        let (opened, error): (usize, Option<i32>) = host.json("open_all", "null").await;
        assert_eq!(error, Some(rustix::io::Errno::MFILE.raw_os_error()));
        assert!(opened < 50, "{opened}");
        // No socket for its children, as without limits.
        assert_eq!(host.json::<usize>("sockets", "").await, 0);
        assert_eq!(host.host.stop().await, Cause::Asked);
    }
}

#[tokio::test]
async fn a_program_that_is_watched_has_its_limits_and_what_it_cannot_have_is_said() {
    let shell = |script: &str| HostKind::Supervise {
        executable: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
    };
    let (mut limited, directory) = spec(shell("ulimit -n; ulimit -c"), &[]);
    limited.confinement = confined(files(77));
    let mut program = start_with(limited, directory, 64).await.unwrap();
    assert_eq!(program.ended().await, Cause::Exited { code: 0 });
    assert_eq!(program.log(None, "stdout"), "77\n0\n");

    let (mut absent, directory) = spec(served(), &[]);
    absent.what = HostKind::Serve { executable: PathBuf::from("/nowhere/program"), args: vec![] };
    absent.confinement = confined(files(77));
    let (cause, _) = start_failure((absent, directory)).await;
    assert!(cause.to_string().contains("cannot execute /nowhere/program"), "{cause}");

    let (mut low, directory) = spec(probe(), &[]);
    low.confinement = confined(files(1));
    let (cause, _) = start_failure((low, directory)).await;
    assert!(cause.to_string().contains("open_files"), "{cause}");
    assert!(Confinement::new(Isolation::default()).is_none());
}

#[tokio::test]
async fn limits_that_no_agent_says_are_not_applied() {
    let (mut other, directory) = spec(probe(), &[]);
    other.command.extend(["confined".into(), "{}x".into()]);
    let (cause, _) = start_failure((other, directory)).await;
    assert!(cause.to_string().contains("limits of this host cannot be read"), "{cause}");
}
