use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use overseer_labor::host::{Failure, Host, HostInfo, HostKind, HostOutput, HostSpec};
use overseer_plugin::record::{Body, Records};
use overseer_protocol::{CallErrorCode, Cause};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Longer than anything here takes, even on a loaded machine.
pub const LONG: Duration = Duration::from_secs(30);

pub type Outcome = Result<Bytes, (CallErrorCode, String)>;

/// The library that cargo has built beside this test.
pub fn library() -> PathBuf {
    let library = std::env::current_exe().unwrap().with_file_name("libprobe_plugin.so");
    assert!(library.is_file(), "{} is not there; run the tests by cargo", library.display());
    library
}

pub fn probe() -> HostKind {
    HostKind::Plugin { library: library() }
}

pub fn spec(what: HostKind, environment: &[(&str, &str)]) -> (HostSpec, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let spec = HostSpec {
        what,
        name: "host".into(),
        confinement: None,
        command: vec![env!("CARGO_BIN_EXE_labor").into(), "__overseer".into(), "plugin-host".into()],
        environment: environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<BTreeMap<_, _>>(),
        directory: directory.path().canonicalize().unwrap(),
        start_timeout: LONG,
        health_timeout: LONG,
        stop_timeout: LONG,
    };
    (spec, directory)
}

/// A host, what it has said and not been asked for, and its directory.
pub struct Running {
    pub host: Host,
    pub info: HostInfo,
    pub output: mpsc::Receiver<HostOutput>,
    pub directory: TempDir,
    pub said: Vec<HostOutput>,
    last_call: u64,
}

pub async fn start(what: HostKind, environment: &[(&str, &str)]) -> Running {
    let (spec, directory) = spec(what, environment);
    start_with(spec, directory, 4096).await.unwrap()
}

pub async fn start_with(spec: HostSpec, directory: TempDir, room: usize) -> Result<Running, Cause> {
    let (sender, output) = mpsc::channel(room);
    let (host, info) = Host::start(spec, sender).await?;
    Ok(Running { host, info, output, directory, said: Vec::new(), last_call: 0 })
}

/// The cause of a start that must fail, and what the host printed.
pub async fn start_failure((spec, _directory): (HostSpec, TempDir)) -> (Cause, String) {
    let (sender, mut output) = mpsc::channel(4096);
    let cause = Host::start(spec, sender).await.map(|(_, info)| info).unwrap_err();
    let mut printed = String::new();
    while let Some(said) = output.recv().await {
        match said {
            HostOutput::Log { data, .. } => printed.push_str(&String::from_utf8_lossy(&data)),
            HostOutput::Telemetry { .. } => {}
            other => panic!("{other:?} of a host that did not start"),
        }
    }
    (cause, printed)
}

impl Running {
    pub fn send(&mut self, method: &str, payload: impl Into<Bytes>) -> u64 {
        self.last_call += 1;
        self.host.call(self.last_call, false, "", method, payload.into());
        self.last_call
    }

    /// The next output that `take` takes; others are kept in `said`.
    pub async fn wait_for<T>(&mut self, mut take: impl FnMut(&HostOutput) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let output = tokio::time::timeout_at(deadline, self.output.recv());
            let output = output.await.expect("what is waited for does not come").expect("the output ended");
            if let Some(taken) = take(&output) {
                return taken;
            }
            self.said.push(output);
        }
    }

    /// Without what it does not have in common with all others.
    pub async fn result(&mut self, call: u64) -> Outcome {
        self.outcome(call).await.map_err(|failure| (failure.code, failure.message))
    }

    /// Results come in any order.
    pub async fn outcome(&mut self, call: u64) -> Result<Bytes, Failure> {
        let is_it = |output: &HostOutput| matches!(output, HostOutput::Result { id, .. } if *id == call);
        if let Some(at) = self.said.iter().position(is_it)
            && let HostOutput::Result { outcome, .. } = self.said.remove(at)
        {
            return outcome;
        }
        self.wait_for(|output| match output {
            HostOutput::Result { id, outcome } if *id == call => Some(outcome.clone()),
            HostOutput::Ended(cause) => panic!("{cause}"),
            _ => None,
        })
        .await
    }

    pub async fn call(&mut self, method: &str, payload: impl Into<Bytes>) -> Outcome {
        let call = self.send(method, payload);
        self.result(call).await
    }

    pub async fn json<T: serde::de::DeserializeOwned>(&mut self, method: &str, payload: &str) -> T {
        let result = self.call(method, payload.to_owned()).await.unwrap();
        serde_json::from_slice(&result).unwrap()
    }

    /// Waits until the plugin says that something happened.
    pub async fn event(&mut self, wanted: &str) {
        self.wait_for(|output| match output {
            HostOutput::Telemetry { records, .. } => Records::new(records)
                .any(|record| matches!(record.unwrap().body, Body::Event { name, .. } if name == wanted))
                .then_some(()),
            _ => None,
        })
        .await;
    }

    /// Waits for the end, which must be the last that comes.
    pub async fn ended(&mut self) -> Cause {
        let cause = self
            .wait_for(|output| match output {
                HostOutput::Ended(cause) => Some(cause.clone()),
                _ => None,
            })
            .await;
        // A clone of the sender may live a moment longer than what it sent.
        let after = tokio::time::timeout(LONG, self.output.recv()).await.expect("the output has an end");
        assert!(after.is_none(), "{after:?} after the end");
        cause
    }

    /// All that came on a log stream until now.
    pub fn log(&self, of: Option<u64>, name: &str) -> String {
        let mut all = Vec::new();
        for output in &self.said {
            if let HostOutput::Log { call, stream, data } = output
                && *call == of
                && stream == name
            {
                all.extend_from_slice(data);
            }
        }
        String::from_utf8(all).unwrap()
    }
}

/// Waits until no process of that id runs.
pub async fn gone(pid: u32) {
    let deadline = std::time::Instant::now() + LONG;
    while runs(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A process that has ended and that nobody has waited for does not run.
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}
