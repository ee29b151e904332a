//! A real Prometheus, with a configuration, a directory and a port of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::patience::{PATIENCE, eventually};

/// One sample that a query gave: its labels, and its value.
pub type Sample = (BTreeMap<String, String>, f64);

/// A Prometheus that reads one address. Gone when this is dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Prometheus {
    /// Whether there is one. Where there is none, the test has been said to be ignored.
    ///
    /// # Panics
    /// Where there is none and `REQUIRE_PARTS` asks for it.
    pub fn is_there() -> bool {
        let there = |program: &str| {
            Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
        };
        if there("prometheus") && there("promtool") {
            return true;
        }
        let required = std::env::var_os("REQUIRE_PARTS").is_some();
        assert!(!required, "prometheus and promtool are missing, which REQUIRE_PARTS asks for");
        eprintln!("ignored: there is no prometheus; install the Debian package of that name");
        false
    }

    /// Starts one that reads `http://TARGET/metrics` twice a second, and waits until it answers.
    pub async fn reading(target: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: tested, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&configuration, text).unwrap();
        // An address of the loopback that nobody else takes a port of.
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 64 | b, c, d.max(1));
        let address = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Self { child, address, directory };
        eventually("Prometheus is ready", async || {
            assert_eq!(prometheus.child.try_wait().unwrap(), None, "{}", prometheus.log());
            let answer = get(prometheus.address, "/-/ready", "*/*")?;
            answer.0.contains(" 200 ").then_some(())
        })
        .await;
        prometheus
    }

    /// What it answers to a query right now.
    pub fn query(&self, query: &str) -> Vec<Sample> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let (_, body) = get(self.address, &path, "*/*").unwrap_or_else(|| panic!("{}", self.log()));
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {body}");
        let samples = answer["data"]["result"].as_array().unwrap().iter().map(|sample| {
            let labels = serde_json::from_value(sample["metric"].clone()).unwrap();
            (labels, sample["value"][1].as_str().unwrap().parse().unwrap())
        });
        samples.collect()
    }

    /// Asks until there are samples that `good` likes.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&self, query: &str, good: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        let mut last = Vec::new();
        let what = format!("{query} is as it should be");
        let asked = eventually(&what, async || {
            last = self.query(query);
            good(&last).then(|| last.clone())
        });
        asked.await
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Lets `promtool` say whether a text in Prometheus' own format is well made.
///
/// # Panics
/// When it is not.
pub fn check(text: &str) {
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

/// `GET` of a path: head and body, or nothing where nobody answers.
pub fn get(address: SocketAddr, path: &str, accept: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE.min(Duration::from_secs(30)))).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
