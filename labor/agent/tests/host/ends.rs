use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use overseer_plugin::frame::{Decoder, Frame};
use overseer_protocol::Cause;

use crate::harness::{gone, library, probe, runs, spec, start, start_with};

#[tokio::test]
async fn every_crash_has_its_cause() {
    for (method, payload, expected) in [
        ("abort", "", Cause::Signal { signal: 6 }),
        ("segfault", "", Cause::Signal { signal: 11 }),
        ("exit", "3", Cause::Exited { code: 3 }),
        ("exit", "0", Cause::Exited { code: 0 }),
    ] {
        let mut probe = start(probe(), &[]).await;
        probe.send(method, payload);
        assert_eq!(probe.ended().await, expected, "{method}");
        assert_eq!(probe.host.health().await, Err(expected.clone()));
        assert_eq!(probe.host.stop().await, expected);
        // What comes too late does no harm.
        probe.send("echo", "late");
        probe.host.cancel(1);
        probe.host.kill(Cause::Asked);
    }
}

#[tokio::test]
async fn a_kill_from_outside_is_seen() {
    let mut probe = start(probe(), &[]).await;
    let pid = rustix::process::Pid::from_raw(probe.info.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(probe.ended().await, Cause::Signal { signal: 9 });
}

#[tokio::test]
async fn a_plugin_that_talks_nonsense_is_ended() {
    let mut probe = start(probe(), &[]).await;
    probe.send("babble", "");
    let cause = probe.ended().await;
    assert!(matches!(&cause, Cause::Unhealthy { reason } if reason.contains("frame")), "{cause:?}");
}

#[tokio::test]
async fn a_plugin_that_closes_its_connection_is_ended() {
    let mut probe = start(probe(), &[]).await;
    probe.send("close_pipes", "");
    // The host takes that for the end of its agent and ends too; which of the two is quicker
    // is open.
    let cause = probe.ended().await;
    assert!(matches!(cause, Cause::Unhealthy { .. } | Cause::Signal { signal: 9 }), "{cause:?}");
    gone(probe.info.pid).await;
}

#[tokio::test]
async fn the_children_of_a_plugin_end_with_it() {
    let mut probe = start(probe(), &[]).await;
    let child: u32 = probe.json("fork_and_hang", "").await;
    assert!(runs(child));
    probe.send("exit", "3");
    assert_eq!(probe.ended().await, Cause::Exited { code: 3 });
    gone(child).await;
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipes_does_not_hold_up_the_end() {
    let mut probe = start(probe(), &[]).await;
    let daemon: u32 = probe.json("daemon", "").await;
    probe.send("exit", "3");
    assert_eq!(probe.ended().await, Cause::Exited { code: 3 });
    let daemon = rustix::process::Pid::from_raw(daemon.cast_signed()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_stop_cancels_what_runs_and_stops_the_plugin() {
    let mut probe = start(probe(), &[]).await;
    let call = probe.send("wait_cancel", "60000");
    probe.event("waits").await;
    assert_eq!(probe.host.stop().await, Cause::Asked);
    assert_eq!(probe.result(call).await.unwrap_err().0, overseer_protocol::CallErrorCode::Cancelled);
    assert_eq!(probe.ended().await, Cause::Asked);
    assert_eq!(probe.log(None, "stdout"), "stopped\n");
    assert_eq!(probe.host.stop().await, Cause::Asked);
}

#[tokio::test]
async fn a_plugin_that_does_not_stop_is_killed() {
    for (environment, method) in [("hang", "echo"), ("", "spin")] {
        let (mut spec, directory) = spec(probe(), &[("PROBE_STOP", environment)]);
        spec.stop_timeout = Duration::from_millis(200);
        let mut probe = start_with(spec, directory, 64).await.unwrap();
        probe.send(method, "");
        if method == "spin" {
            probe.event("waits").await;
        }
        assert_eq!(probe.host.stop().await, Cause::Hung { after_ms: 200 });
        assert_eq!(probe.ended().await, Cause::Hung { after_ms: 200 });
        gone(probe.info.pid).await;
    }
}

#[tokio::test]
async fn a_stop_that_goes_wrong_is_told() {
    let mut probe_exits = start(probe(), &[("PROBE_STOP", "exit")]).await;
    assert_eq!(probe_exits.host.stop().await, Cause::Exited { code: 4 });
    assert_eq!(probe_exits.ended().await, Cause::Exited { code: 4 });
    let mut probe_panics = start(probe(), &[("PROBE_STOP", "panic")]).await;
    assert_eq!(probe_panics.host.stop().await, Cause::Asked);
    probe_panics.ended().await;
    assert!(probe_panics.log(None, "stderr").contains("cannot stop"));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_process() {
    let probe = start(probe(), &[]).await;
    let (pid, other) = (probe.info.pid, probe.host.clone());
    drop(probe);
    other.health().await.unwrap();
    drop(other);
    gone(pid).await;
}

#[tokio::test]
async fn a_host_ends_with_its_agent() {
    // An agent that is killed has no time to say anything: its end of the socket just closes.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut host = Command::new(env!("CARGO_BIN_EXE_labor"))
        .args(["__overseer".as_ref(), "plugin-host".as_ref(), "load".as_ref(), library().as_os_str()])
        .current_dir(directory.path())
        .env("PROBE_STOP", "hang")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let mut decoder = Decoder::new();
    wait_frame(&ours, &mut decoder, |frame| matches!(frame, Frame::Hello { concurrency: 4, .. }));
    drop(ours);
    let ended = tokio::task::spawn_blocking(move || host.wait().unwrap());
    tokio::time::timeout(crate::harness::LONG, ended).await.unwrap().unwrap();
}

fn wait_frame(socket: &UnixStream, decoder: &mut Decoder, wanted: impl Fn(&Frame<'_>) -> bool) {
    let mut space = [0; 4096];
    loop {
        while let Some(frame) = decoder.next().unwrap() {
            if wanted(&frame) {
                return;
            }
        }
        let count = std::io::Read::read(&mut &*socket, &mut space).unwrap();
        assert!(count > 0, "the host ended");
        decoder.push(&space[..count]);
    }
}

#[test]
fn a_person_who_starts_a_plugin_host_is_told_that_it_is_none_of_theirs() {
    let said = Command::new(env!("CARGO_BIN_EXE_labor"))
        .args(["__overseer", "plugin-host", "load", "x"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(70));
    assert!(String::from_utf8_lossy(&said.stderr).contains("started by an agent"));
}
