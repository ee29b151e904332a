use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use overseer_labor::host::HostKind;
use overseer_protocol::{BootPhase, Cause};

use crate::harness::{LONG, probe, spec, start, start_failure};

fn boot_failed(cause: Cause) -> String {
    match cause {
        Cause::BootFailed { phase: BootPhase::Start, reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_that_fails_says_what_the_plugin_said() {
    let start = |how| start_failure(spec(probe(), &[("PROBE_START", how)]));
    assert_eq!(boot_failed(start("fail").await.0), "no bolts; order some");
    let (cause, printed) = start("panic").await;
    assert!(matches!(&cause, Cause::Panicked { message } if message.contains("no bolts")), "{cause:?}");
    assert!(printed.contains("no bolts"), "{printed}");
    assert_eq!(start("exit").await.0, Cause::Exited { code: 3 });
    assert_eq!(start("abort").await.0, Cause::Signal { signal: 6 });
}

#[tokio::test]
async fn a_start_that_hangs_ends_at_its_deadline() {
    let (mut spec, directory) = spec(probe(), &[("PROBE_START", "hang")]);
    spec.start_timeout = Duration::from_millis(300);
    let (cause, _) = start_failure((spec, directory)).await;
    assert_eq!(cause, Cause::BootTimeout { phase: BootPhase::Start, after_ms: 300 });
}

#[tokio::test]
async fn a_plugin_that_is_ill_from_the_start_does_not_start() {
    let ill = spec(probe(), &[("PROBE_HEALTH", "ill")]);
    assert_eq!(start_failure(ill).await.0, Cause::Unhealthy { reason: "the bolts are loose".into() });
    let (spec, directory) = spec(probe(), &[("PROBE_HEALTH", "panic")]);
    let (cause, _) = start_failure((spec, directory)).await;
    assert!(matches!(&cause, Cause::Panicked { message } if message.contains("no pulse")), "{cause:?}");
}

#[tokio::test]
async fn a_plugin_whose_health_check_hangs_does_not_start() {
    let (mut spec, directory) = spec(probe(), &[("PROBE_HEALTH", "hang")]);
    spec.health_timeout = Duration::from_millis(200);
    assert_eq!(start_failure((spec, directory)).await.0, Cause::Hung { after_ms: 200 });
}

#[tokio::test]
async fn what_is_no_plugin_says_which_file_and_what_to_do() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "not a library").unwrap();
    for (library, expected) in [
        (text.path().to_owned(), "build it as a cdylib"),
        (PathBuf::from("/nowhere/lib.so"), "/nowhere/lib.so"),
        (some_library(), "export_plugin!"),
    ] {
        let (spec, directory) = spec(HostKind::Plugin { library: library.clone() }, &[]);
        let reason = boot_failed(start_failure((spec, directory)).await.0);
        assert!(reason.contains(&library.display().to_string()) && reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_plugin_of_another_abi_says_which_and_what_to_do() {
    // The beginning of a table in every version: size, major, minor.
    let table = |size: usize, major: u32| {
        format!(
            "static struct {{ unsigned long size; unsigned major, minor; }} t = {{ {size}, {major}, 0 }};\n\
             void *overseer_plugin(void) {{ return &t; }}\n"
        )
    };
    for (source, expected) in [
        (table(4096, 99), "has plugin ABI 99, this agent has 1; rebuild it"),
        (table(16, 1), "has a plugin table of 16 bytes"),
        ("void *overseer_plugin(void) { return 0; }\n".to_owned(), "export_plugin!"),
    ] {
        let built = tempfile::tempdir().unwrap();
        let library = built.path().join("libother.so");
        let code = built.path().join("other.c");
        std::fs::write(&code, source).unwrap();
        // Rust links by it, so it is there.
        let mut compiler = std::process::Command::new("cc");
        let compiled = compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &code]).status().unwrap();
        assert!(compiled.success());
        let (spec, directory) = spec(HostKind::Plugin { library: library.clone() }, &[]);
        let reason = boot_failed(start_failure((spec, directory)).await.0);
        assert!(reason.contains(&library.display().to_string()) && reason.contains(expected), "{reason}");
    }
}

/// A library of the system that is no plugin: one that this very process has loaded.
fn some_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().last());
    libc.filter(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .map(PathBuf::from)
        .next()
        .unwrap()
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_a_failed_start() {
    let (mut spec, directory) = spec(probe(), &[]);
    spec.command = vec!["/nowhere/labor".into()];
    let reason = boot_failed(start_failure((spec.clone(), tempfile::tempdir().unwrap())).await.0);
    assert!(reason.contains("/nowhere/labor"), "{reason}");
    spec.command.clear();
    boot_failed(start_failure((spec, directory)).await.0);
}

#[tokio::test]
async fn a_program_that_does_not_serve_is_a_failed_start() {
    let what = HostKind::Serve { executable: "/bin/true".into(), args: vec![] };
    let (spec, directory) = spec(what, &[]);
    assert_eq!(start_failure((spec, directory)).await.0, Cause::Exited { code: 0 });
}

#[tokio::test]
async fn a_served_program_answers_like_a_plugin() {
    let executable = std::env::current_exe().unwrap();
    let args = ["--exact", "starts::serves_the_probe", "--ignored", "--nocapture"].map(String::from).to_vec();
    let mut probe = start(HostKind::Serve { executable, args }, &[]).await;
    assert_eq!(probe.call("echo", "hello").await.unwrap(), "hello");
    assert_eq!(probe.host.stop().await, Cause::Asked);
    assert_eq!(probe.ended().await, Cause::Asked);
}

#[test]
#[ignore = "the program of another test"]
fn serves_the_probe() {
    overseer_plugin::serve::<probe_plugin::Probe>();
}

#[tokio::test]
async fn a_host_has_its_own_environment_directory_and_input() {
    let mut probe = start(probe(), &[("GREETING", "hello")]).await;
    let environment: BTreeMap<String, String> = probe.json("env", "").await;
    assert_eq!(environment["GREETING"], "hello");
    // Cargo sets many for this test, which stands for the agent.
    assert!(environment.keys().all(|name| !name.starts_with("CARGO")), "{environment:?}");
    let here = probe.directory.path().canonicalize().unwrap();
    assert_eq!(probe.json::<(PathBuf, PathBuf)>("directory", "").await, (here.clone(), here));
    assert_eq!(probe.json::<String>("stdin", "").await, "");
    assert_eq!(probe.json::<usize>("sockets", "").await, 0);
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let (spec, directory) = spec(probe(), &[("PROBE_START", "hang"), ("MARK", "given-up")]);
    let (sender, mut output) = tokio::sync::mpsc::channel(16);
    let start = overseer_labor::host::Host::start(spec, sender);
    assert!(tokio::time::timeout(Duration::from_millis(200), start).await.is_err());
    // Its output ends when all of its tasks have, and those wait for its process.
    let rest = async { while output.recv().await.is_some() {} };
    tokio::time::timeout(LONG, rest).await.unwrap();
    drop(directory);
}
