use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use overseer_labor::host::HostKind;
use overseer_protocol::Cause;

use crate::harness::{gone, spec, start, start_failure, start_with};

fn shell(script: &str) -> HostKind {
    HostKind::Supervise { executable: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }
}

#[tokio::test]
async fn any_program_is_started_watched_and_read() {
    let mut program = start(shell("echo hello; echo oh >&2; exit 3"), &[]).await;
    assert_eq!(program.info.concurrency, 0);
    assert_eq!(program.ended().await, Cause::Exited { code: 3 });
    assert_eq!(program.log(None, "stdout"), "hello\n");
    assert_eq!(program.log(None, "stderr"), "oh\n");
}

#[tokio::test]
async fn a_program_reads_nothing_and_holds_no_socket() {
    let mut program = start(shell("cat; ls -l /proc/self/fd"), &[]).await;
    program.ended().await;
    let listed = program.log(None, "stdout");
    assert!(!listed.contains("socket:"), "{listed}");
}

#[tokio::test]
async fn a_program_that_is_asked_to_stop_ends_as_it_likes() {
    for script in ["exec sleep 3600", "trap 'exit 7' TERM; echo; sleep 3600 & wait"] {
        let mut program = start(shell(script), &[]).await;
        if script.contains("trap") {
            // It has set its trap when it has printed.
            program.wait_for(|_| Some(())).await;
        }
        program.host.health().await.unwrap();
        assert_eq!(program.host.stop().await, Cause::Asked);
        assert_eq!(program.ended().await, Cause::Asked);
    }
}

#[tokio::test]
async fn a_program_that_ignores_the_request_is_killed_with_its_children() {
    let (mut spec, directory) = spec(shell("trap '' TERM; sleep 3600 & echo $!; wait"), &[]);
    spec.stop_timeout = Duration::from_millis(200);
    let mut program = start_with(spec, directory, 64).await.unwrap();
    let child = program
        .wait_for(|output| match output {
            overseer_labor::host::HostOutput::Log { data, .. } => Some(data.clone()),
            _ => None,
        })
        .await;
    assert_eq!(program.host.stop().await, Cause::Hung { after_ms: 200 });
    program.ended().await;
    gone(String::from_utf8_lossy(&child).trim().parse().unwrap()).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_a_failed_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    for executable in [file.path().to_owned(), "/nowhere/program".into()] {
        let (spec, directory) =
            spec(HostKind::Supervise { executable: executable.clone(), args: vec![] }, &[]);
        let (cause, _) = start_failure((spec, directory)).await;
        let text = cause.to_string();
        assert!(matches!(cause, Cause::BootFailed { .. }), "{text}");
        assert!(text.contains(&executable.display().to_string()) && text.contains("manifest"), "{text}");
    }
}
