//! A program that is run once for each call.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use overseer_labor::host::{HostKind, HostOutput};
use overseer_plugin::frame::MAX_PAYLOAD;
use overseer_protocol::{CallErrorCode, Cause};

use crate::harness::{LONG, Running, gone, runs, spec, start, start_failure};

fn shell(script: &str) -> HostKind {
    let args = vec!["-c".into(), script.into(), "shell".into(), "an argument".into()];
    HostKind::Run { executable: "/bin/sh".into(), args, concurrency: 1 }
}

fn number(bytes: &[u8]) -> u32 {
    String::from_utf8_lossy(bytes).trim().parse().unwrap()
}

/// What a call has written to standard error up to the end of a line.
async fn line(program: &mut Running) -> Bytes {
    let log = |output: &HostOutput| match output {
        HostOutput::Log { call: Some(_), stream, data } if stream == "stderr" && data.ends_with(b"\n") => {
            Some(data.clone())
        }
        _ => None,
    };
    program.wait_for(log).await
}

#[tokio::test]
async fn each_call_is_a_run_with_the_payload_as_input_and_the_output_as_result() {
    let script = "printf '%s %s %s %s ' $$ $OVERSEER_CALL \"$OVERSEER_METHOD\" \"$1\"; cat";
    let mut program = start(shell(script), &[]).await;
    assert_eq!(program.info.concurrency, 1);
    let mut processes = Vec::new();
    for (id, payload) in [(1, "hello"), (2, ""), (3, "again\n")] {
        let result = program.call("say it", payload).await.unwrap();
        let result = String::from_utf8(result.to_vec()).unwrap();
        let (process, rest) = result.split_once(' ').unwrap();
        processes.push(process.to_owned());
        assert_eq!(rest, format!("{id} say it an argument {payload}"));
    }
    processes.dedup();
    assert_eq!(processes.len(), 3);
    program.host.health().await.unwrap();
    assert_eq!(program.host.stop().await, Cause::Asked);
}

#[tokio::test]
async fn a_run_inherits_no_file_and_finds_its_call_in_the_environment() {
    let mut program = start(shell("ls -l /proc/self/fd; pwd; env"), &[("COLOUR", "red")]).await;
    let files = |listed: &str| listed.lines().filter(|line| line.contains(" -> ")).count();
    // The three, what `ls` opens to read them, and what these tests were started with.
    let any = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let expected = files(&String::from_utf8(any.stdout).unwrap());
    program.host.call(1, false, "00-1-2-01", "m", Bytes::new());
    let said = String::from_utf8(program.result(1).await.unwrap().to_vec()).unwrap();
    assert_eq!(files(&said), expected, "{said}");
    assert!(said.contains("0 -> /dev/null") && !said.contains("socket:"), "{said}");
    let directory = program.directory.path().canonicalize().unwrap();
    for wanted in [&*directory.to_string_lossy(), "COLOUR=red", "TRACEPARENT=00-1-2-01", "OVERSEER_METHOD=m"]
    {
        assert!(said.lines().any(|line| line == wanted), "{wanted}: {said}");
    }
}

#[tokio::test]
async fn what_fails_says_how_and_the_last_it_wrote_to_standard_error() {
    for (script, says) in [
        (
            "echo result; echo one >&2; echo two >&2; exit 3",
            "exited with code 3; the end of its standard error:\none\ntwo",
        ),
        ("exit 255", "exited with code 255; it wrote nothing to standard error"),
        ("kill -SEGV $$", "ended by signal 11 (SIGSEGV); it wrote nothing to standard error"),
    ] {
        let mut program = start(shell(script), &[]).await;
        let (code, message) = program.call("run", "in").await.unwrap_err();
        assert_eq!((code, message), (CallErrorCode::Failed, format!("the program failed: {says}")));
        // That is the call's alone.
        program.host.health().await.unwrap();
    }
}

#[tokio::test]
async fn standard_error_is_a_log_stream_of_the_call_and_comes_while_it_runs() {
    let mut program = start(shell("echo ready >&2; read go < fifo; echo done >&2; echo good"), &[]).await;
    let fifo = program.directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let call = program.send("run", "");
    assert_eq!(line(&mut program).await, "ready\n");
    std::fs::write(&fifo, "go\n").unwrap();
    assert_eq!(program.result(call).await.unwrap(), "good\n");
    assert_eq!(program.log(Some(call), "stderr"), "done\n");
    assert_eq!(program.log(Some(call), "stdout"), "");
}

#[tokio::test]
async fn a_cancelled_call_ends_the_program_with_its_children() {
    for (script, patient) in [
        ("sleep 3600 & echo $! >&2; wait", false),
        ("trap '' TERM; sleep 3600 & echo $! >&2; wait; wait", true),
        ("trap 'exit 0' TERM; sleep 3600 & echo $! >&2; wait", false),
    ] {
        let mut program = start(shell(script), &[]).await;
        let call = program.send("run", "");
        let child = number(&line(&mut program).await);
        assert!(runs(child));
        let cancelled = Instant::now();
        program.host.cancel(call);
        let outcome = program.result(call).await;
        if script.contains("exit 0") {
            outcome.unwrap();
        } else {
            assert_eq!(outcome.unwrap_err().0, CallErrorCode::Cancelled);
        }
        assert_eq!(cancelled.elapsed() >= Duration::from_secs(1), patient, "{script}");
        gone(child).await;
        // The next one is not touched by it.
        program.send("run", "");
        let child = number(&line(&mut program).await);
        assert!(runs(child));
        program.host.stop().await;
        gone(child).await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_in_its_group_ends_with_it() {
    for script in ["sleep 3600 > /dev/null 2>&1 & echo $!", "sleep 3600 & echo $!"] {
        let mut program = start(shell(script), &[]).await;
        let child = program.call("run", "").await.unwrap();
        gone(number(&child)).await;
    }
}

#[tokio::test]
async fn what_a_program_has_started_may_finish_its_output() {
    let has_ended = "grep -q '^State:.*Z' /proc/$$/status";
    let script = format!("(until {has_ended}; do :; done; echo late) &");
    let mut program = start(shell(&script), &[]).await;
    assert_eq!(program.call("run", "").await.unwrap(), "late\n");
}

#[tokio::test]
async fn large_payloads_and_results_travel_and_too_large_ones_are_refused() {
    let mut program = start(shell("[ $OVERSEER_METHOD = echo ] && exec cat; exec cat /dev/zero"), &[]).await;
    let large = Bytes::from((0..8_000_000u32).map(|n| n as u8).collect::<Vec<_>>());
    assert!(program.call("echo", large.clone()).await.unwrap() == large);
    let most = Bytes::from(vec![7; MAX_PAYLOAD]);
    assert!(program.call("echo", most.clone()).await.unwrap() == most);
    let (code, message) = program.call("zeros", "").await.unwrap_err();
    assert_eq!(code, CallErrorCode::TooLarge);
    assert!(message.contains("67108864 bytes"), "{message}");
    assert_eq!(program.call("echo", "small").await.unwrap(), "small");
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_no_failure() {
    let mut program = start(shell("exec true"), &[]).await;
    assert_eq!(program.call("run", vec![1; 1 << 20]).await.unwrap(), "");
}

#[tokio::test]
async fn a_file_that_is_not_executable_fails_the_start_and_one_of_no_known_format_its_calls() {
    let file = tempfile::Builder::new().tempfile().unwrap().into_temp_path();
    std::fs::write(&file, [0, 1, 2]).unwrap();
    let kind = || HostKind::Run { executable: file.to_path_buf(), args: vec![], concurrency: 1 };
    let names = |message: &str| message.contains(file.to_str().unwrap()) && message.contains("manifest");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (cause, _) = start_failure(spec(kind(), &[])).await;
    assert!(matches!(&cause, Cause::BootFailed { reason, .. } if names(reason)), "{cause:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut program = start(kind(), &[]).await;
    let (code, message) = program.call("run", "").await.unwrap_err();
    assert!(code == CallErrorCode::Failed && names(&message), "{code:?} {message}");
}

#[tokio::test]
async fn as_many_run_at_once_as_the_release_says() {
    // Each waits for the other.
    let script = "[ $OVERSEER_METHOD = get ] && exec cat fifo; echo x > fifo";
    let HostKind::Run { executable, args, .. } = shell(script) else { panic!() };
    let mut program = start(HostKind::Run { executable, args, concurrency: 2 }, &[]).await;
    assert_eq!(program.info.concurrency, 2);
    assert!(Command::new("mkfifo").arg(program.directory.path().join("fifo")).status().unwrap().success());
    let (get, put) = (program.send("get", ""), program.send("put", ""));
    assert_eq!(program.result(put).await.unwrap(), "");
    assert_eq!(program.result(get).await.unwrap(), "x\n");
}

#[tokio::test]
async fn a_stop_ends_what_runs() {
    let mut program = start(shell("echo $$ >&2; exec sleep 3600"), &[]).await;
    let call = program.send("run", "");
    let child = number(&line(&mut program).await);
    assert_eq!(program.host.stop().await, Cause::Asked);
    assert_eq!(program.result(call).await.unwrap_err().0, CallErrorCode::Cancelled);
    gone(child).await;
}

#[tokio::test]
async fn programs_end_with_an_agent_that_is_killed() {
    // One that minds SIGTERM, and one that does not.
    for script in ["echo $$ > pid; exec sleep 3600", "trap '' TERM; echo $$ > pid; sleep 3600; sleep 3600"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut host = Command::new(env!("CARGO_BIN_EXE_labor"))
            .args(["__overseer", "plugin-host", "run", "1", "/bin/sh", "-c", script])
            .current_dir(directory.path())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut frame = Vec::new();
        let call = overseer_plugin::frame::Frame::Call {
            id: 1,
            cast: false,
            trace: "",
            method: "run",
            payload: b"",
        };
        call.encode(&mut frame).unwrap();
        std::io::Write::write_all(&mut &ours, &frame).unwrap();
        let deadline = Instant::now() + LONG;
        let pid = loop {
            let text = std::fs::read_to_string(directory.path().join("pid")).unwrap_or_default();
            if text.ends_with('\n') {
                break number(text.as_bytes());
            }
            assert!(Instant::now() < deadline, "the program does not run");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(runs(pid));
        drop(ours);
        let ended = tokio::task::spawn_blocking(move || host.wait().unwrap());
        tokio::time::timeout(LONG, ended).await.unwrap().unwrap();
        gone(pid).await;
    }
}
